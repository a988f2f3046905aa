"""For some thousand images: 48 epochs. Chosen, not tuned."""

_base_ = './schedule_2x.py'

train_cfg = dict(max_epochs=48, val_interval=4)
# Without `_scope_`, a config that inherits from `mmws::` would look for the type in mmws.
param_scheduler = [
    _base_.param_scheduler[0],  # the warm-up
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
