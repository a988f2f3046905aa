"""Narrow DeepLabV3 R18, BN, on the scenes of digits as masks: some minutes on two cores.

python tools/make_digits.py --voc --out data/digits

Unlike the configs of VOC, it has output stride 8, since digits are about 30 pixels high, and the
background, which is nine tenths of the pixels, weighs a tenth of a digit.
"""

_base_ = '../_base_/models/deeplabv3_bn.py'

norm_cfg = dict(type='BN')  # there is nothing to synchronize in one process
weights = [0.1] + [1.0] * 10
loss = dict(type='CrossEntropyLoss', use_sigmoid=False, class_weight=weights)
model = dict(
    # The scenes have one size, so there is nothing to pad.
    data_preprocessor=dict(size=None, size_divisor=1),
    backbone=dict(
        depth=18,
        stem_channels=32,
        base_channels=32,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(
        in_channels=256,
        channels=64,
        num_classes=11,
        norm_cfg=norm_cfg,
        loss_decode=dict(loss_weight=1.0, **loss),
    ),
    auxiliary_head=dict(
        in_channels=128,
        channels=32,
        num_classes=11,
        norm_cfg=norm_cfg,
        loss_decode=dict(loss_weight=0.4, **loss),
    ),
)
classes = ('background', *'0123456789')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
digits = dict(
    type='BaseSegDataset',
    data_root='data/digits/VOCdevkit/VOC2012',
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
    metainfo=dict(classes=classes, palette=[[20 * i, 20 * i, 20 * i] for i in range(11)]),
    pipeline=train_pipeline,
)
loading = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(_delete_=True, ann_file='ImageSets/Segmentation/train.txt', **digits),
    **loading,
)
val_dataloader = dict(
    dataset=dict(_delete_=True, ann_file='ImageSets/Segmentation/val.txt', **digits), **loading
)
test_dataloader = val_dataloader
auto_scale_lr = dict(base_batch_size=2)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.001, weight_decay=0.05))
train_cfg = dict(max_iters=1200, val_interval=300)  # ten epochs
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=60),
    dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=60, end=1200),
]
default_hooks = dict(checkpoint=dict(interval=600), logger=dict(interval=40))
