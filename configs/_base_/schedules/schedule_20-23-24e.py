_base_ = './schedule_2x.py'

# 24 epochs as in 2x, most of them at the full learning rate. Without `_scope_`, a config that
# inherits from `mmws::` would look for the type in mmws.
param_scheduler = [
    _base_.param_scheduler[0],  # the warm-up
    dict(
        _scope_='mmdet',
        type='MultiStepLR',
        begin=0,
        end=24,
        by_epoch=True,
        milestones=[20, 23],
        gamma=0.1,
    ),
]
