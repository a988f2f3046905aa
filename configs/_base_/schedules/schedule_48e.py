"""For some thousand images: 48 epochs. Chosen, not tuned."""

_base_ = './schedule_2x.py'

train_cfg = dict(max_epochs=48, val_interval=4)
# Without `_scope_`, a config that inherits from `mmws::` would look for these types in mmws.
param_scheduler = [
    dict(
        _scope_='mmdet',
        type='LinearLR',
        start_factor=0.001,
        by_epoch=False,
        begin=0,
        end=500,
    ),
    dict(
        _scope_='mmdet',
        type='MultiStepLR',
        begin=0,
        end=48,
        by_epoch=True,
        milestones=[32, 44],
        gamma=0.1,
    ),
]
