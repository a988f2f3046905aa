"""Narrow ResNet-18, BN, on folders of handwritten digits: `r50_bn.py` in a minute on two cores.

python tools/make_digits.py --single --out data/digit_images
"""

_base_ = './r50_bn.py'

data_preprocessor = dict(num_classes=10)
model = dict(
    backbone=dict(depth=18, stem_channels=32, base_channels=32),
    head=dict(num_classes=10, in_channels=256, topk=(1,)),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=64, padding=6),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
digits = dict(data_root='data/digit_images', metainfo=dict(classes=tuple('0123456789')))
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=train_pipeline, **digits),
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline, **digits)
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
auto_scale_lr = dict(base_batch_size=32)
train_cfg = dict(max_epochs=4)
param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', by_epoch=True, T_max=4, convert_to_iter_based=True
)
