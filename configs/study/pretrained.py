"""The rivals of GN+WS where a backbone is pretrained: frozen BN, BN, BN with accumulated steps.

python tools/make_digits.py --out data/digits
python tools/train.py configs/study/digits_pretraining.py --work-dir work_dirs/pretrained_bn
python tools/train.py configs/study/digits_pretraining_gnws.py --work-dir work_dirs/pretrained_gnws
python tools/study.py configs/study/pretrained.py
"""

title = 'GN+WS and its rivals from a pretrained backbone, at one image a step'

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
}
grid = [dict(task='instances', forms=tuple(forms), images_per_step=(1,))]
claims = [
    dict(
        text=f'GN+WS beats {rival}',
        task='instances',
        better=('GN+WS', 1),
        than=(rival, 1),
    )
    for rival in ('BN, frozen', 'BN', 'BN, 8 steps accumulated')
]
