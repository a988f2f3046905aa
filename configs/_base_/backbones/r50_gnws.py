_base_ = './r50.py'

backbone_settings = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://jhu/resnet50_gn_ws')),
)
