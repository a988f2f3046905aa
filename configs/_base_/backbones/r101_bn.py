_base_ = './r101.py'

backbone_settings = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')),
)
