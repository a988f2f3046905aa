"""ResNeXt-101 32x4d, GN+WS; ImageNet, 100 epochs, 256 images a step."""

_base_ = ['./x101_bn.py', '../_base_/norms/gnws.py']

model = dict(backbone=_base_.layers)
