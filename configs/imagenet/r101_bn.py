"""ResNet-101, BN; ImageNet, 100 epochs, 256 images a step. The rival."""

_base_ = 'mmpretrain::resnet/resnet101_8xb32_in1k.py'

custom_imports = dict(imports=['mmws'])
auto_scale_lr = dict(enable=True)
