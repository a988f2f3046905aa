"""Classification of digits that trains the backbone of `digits_instances.py`, with BN.

python tools/train.py configs/study/digits_pretraining.py --work-dir work_dirs/pretrained_bn
"""

_base_ = './digits_classification.py'

model = dict(backbone=dict(base_channels=32, strides=(1, 2, 2, 2)), channels=256)
train_dataloader = dict(batch_size=64)
# Ten epochs.
train_cfg = dict(max_iters=220, val_interval=110)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin=20,
        end=220,
        T_max=200,
        eta_min_ratio=0.01,
    ),
]
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=20),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=220),
)
log_processor = dict(by_epoch=False, window_size=20)
