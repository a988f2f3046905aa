"""BN, GN and GN+WS in the classification of point clouds: needs `mmws[pyg]`.

python tools/study.py configs/study/point_clouds.py
"""

title = 'Point clouds, small batches'

tasks = dict(
    solids=dict(
        title='Classification of point clouds of eight solids, narrow DGCNN',
        config='solids_dgcnn.py',
        metric='accuracy',
        images=1600,  # four epochs
        rates=(0.0001, 0.0003, 0.001, 0.003, 0.01),
        # Behind the maximum over points, BN has one value of each channel of a cloud.
        search_images_per_step=2,
        evaluations=2,
        unit='cloud',
        floor=0.125,
    ),
)
_gn = dict(type='GN', num_groups=8)
forms = {'BN': dict(), 'GN': dict(norm=_gn), 'GN+WS': dict(conv='WS', norm=_gn)}
grid = [dict(task='solids', forms=tuple(forms), images_per_step=(2, 8, 32))]
claims = [
    dict(
        text='GN+WS at 2 clouds beats BN at 2 clouds',
        task='solids',
        better=('GN+WS', 2),
        than=('BN', 2),
        source='arXiv 1903.10520',
    ),
    dict(
        text='GN+WS at 2 clouds beats BN at its best batch',
        task='solids',
        better=('GN+WS', 2),
        than=('BN', 'best'),
        source='arXiv 1903.10520',
    ),
    dict(
        text='WS helps GN at 2 clouds',
        task='solids',
        better=('GN+WS', 2),
        than=('GN', 2),
        source='arXiv 1903.10520',
    ),
]
