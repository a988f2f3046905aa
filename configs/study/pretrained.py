"""The rivals of GN+WS from a pretrained backbone: frozen, accumulated and synchronized BN.

python tools/make_digits.py --out data/digits
python tools/train.py configs/study/digits_pretraining.py --work-dir work_dirs/pretrained_bn
python tools/train.py configs/study/digits_pretraining_gnws.py --work-dir work_dirs/pretrained_gnws
python tools/study.py configs/study/pretrained.py
"""

title = 'GN+WS and its rivals from a pretrained backbone'

tasks = dict(
    instances=dict(
        title='Instance segmentation of digits on textured scenes, pretrained Mask R-CNN',
        config='digits_instances_pretrained_bn.py',
        metric='segm_mAP',
        images=800,
        rates=(0.00025, 0.0005, 0.001),
    ),
)
forms = {
    'BN, frozen': dict(config='digits_instances_frozen_bn.py'),
    'BN': dict(),
    'BN, 8 steps accumulated': dict(config='digits_instances_accumulated_bn.py'),
    'GN+WS': dict(config='digits_instances_pretrained_gnws.py'),
    'SyncBN, 2 processes': dict(norm='SyncBN', processes=2),
}
_alone = ('BN, frozen', 'BN', 'BN, 8 steps accumulated', 'GN+WS')
grid = [
    dict(task='instances', forms=_alone, images_per_step=(1,)),
    # SyncBN trains with one image in each of two processes, the others with two in one.
    dict(task='instances', forms=('GN+WS', 'BN', 'SyncBN, 2 processes'), images_per_step=(2,)),
]
claims = [
    dict(
        text=f'GN+WS beats {rival}',
        task='instances',
        better=('GN+WS', 1),
        than=(rival, 1),
    )
    for rival in ('BN, frozen', 'BN', 'BN, 8 steps accumulated')
]
claims += [
    dict(
        text='GN+WS beats SyncBN at 2 images a step',
        task='instances',
        better=('GN+WS', 2),
        than=('SyncBN, 2 processes', 2),
    ),
    dict(
        text='GN+WS at 1 image beats SyncBN at 2',
        task='instances',
        better=('GN+WS', 1),
        than=('SyncBN, 2 processes', 2),
    ),
]
