"""The same as `digits_pretraining.py` with GN+WS.

    python tools/train.py configs/study/digits_pretraining_gnws.py \
        --work-dir work_dirs/pretrained_gnws
"""

_base_ = './digits_pretraining.py'

model = dict(
    backbone=dict(conv_cfg=dict(type='mmws.ConvWS'), norm_cfg=dict(_delete_=True, type='mmws.GN'))
)
