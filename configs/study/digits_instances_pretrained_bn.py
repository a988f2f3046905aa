"""The demo's Mask R-CNN with BN, its backbone pretrained by `digits_pretraining.py`."""

_base_ = './digits_instances.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True,
            type='Pretrained',
            checkpoint='work_dirs/pretrained_bn/iter_220.pth',
            prefix='backbone.',
        )
    )
)
