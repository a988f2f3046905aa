"""ResNeXt-101 32x4d, BN; ImageNet, 100 epochs, 256 images a step. The rival."""

_base_ = 'mmpretrain::resnext/resnext101-32x4d_8xb32_in1k.py'

custom_imports = dict(imports=['mmws'])
auto_scale_lr = dict(enable=True)
