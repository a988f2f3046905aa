"""BN, GN and GN+WS in semantic segmentation, on the scenes of digits: needs `mmws[mmseg]`.

python tools/make_digits.py --voc --out data/digits
python tools/study.py configs/study/segmentation.py
"""

title = 'Semantic segmentation, small batches'

tasks = dict(
    segmentation=dict(
        title='Semantic segmentation of digits on textured scenes, narrow DeepLabV3',
        config='digits_segmentation.py',
        metric='mIoU',
        images=2400,  # ten epochs of crops
        # Of three values BN did best with the highest, and GN with the lowest.
        rates=(0.0005, 0.001, 0.002, 0.004, 0.008),
        # Behind DeepLab's pooling of the image, BN has one value of each channel of an image.
        search_images_per_step=2,
    ),
)
_gn = dict(type='GN', num_groups=8)
forms = {'BN': dict(), 'GN': dict(norm=_gn), 'GN+WS': dict(conv='WS', norm=_gn)}
grid = [
    dict(task='segmentation', forms=tuple(forms), images_per_step=(2, 8)),
    dict(task='segmentation', forms=('GN', 'GN+WS'), images_per_step=(1,)),
]
claims = [
    dict(
        text='GN+WS at 1 image beats BN at 2 images',
        task='segmentation',
        better=('GN+WS', 1),
        than=('BN', 2),
        source='arXiv 1903.10520',
    ),
    dict(
        text='GN+WS at 1 image beats BN at its best batch',
        task='segmentation',
        better=('GN+WS', 1),
        than=('BN', 'best'),
        source='arXiv 1903.10520',
    ),
    dict(
        text='WS helps GN at 1 image',
        task='segmentation',
        better=('GN+WS', 1),
        than=('GN', 1),
        source='arXiv 1903.10520',
    ),
]
