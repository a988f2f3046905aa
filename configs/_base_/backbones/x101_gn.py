_base_ = './x101.py'

backbone_settings = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://jhu/resnext101_32x4d_gn')
    ),
)
