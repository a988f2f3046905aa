"""ResNeXt-50 32x4d, GN; ImageNet, 100 epochs, 256 images a step."""

_base_ = ['./x50_bn.py', '../_base_/norms/gn.py']

model = dict(backbone=_base_.layers)
