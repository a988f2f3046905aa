"""The demo's Mask R-CNN with GN+WS, its backbone pretrained by `digits_pretraining_gnws.py`."""

_base_ = '../mask_rcnn_r18_gnws_digits.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True,
            type='Pretrained',
            checkpoint='work_dirs/pretrained_gnws/iter_220.pth',
            prefix='backbone.',
        )
    )
)
