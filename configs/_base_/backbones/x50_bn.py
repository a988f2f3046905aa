_base_ = './x50.py'

backbone_settings = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnext50_32x4d')),
)
