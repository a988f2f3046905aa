"""MMDetection's for VOC07+12: 12 epochs, the learning rate drops after 9."""

_base_ = './schedule_1x.py'

# Without `_scope_`, a config that inherits from `mmws::` would look for the type in mmws.
param_scheduler = [
    _base_.param_scheduler[0],  # the warm-up
    dict(
        _scope_='mmdet',
        type='MultiStepLR',
        begin=0,
        end=12,
        by_epoch=True,
        milestones=[9],
        gamma=0.1,
    ),
]
optim_wrapper = dict(optimizer=dict(lr=0.01))
