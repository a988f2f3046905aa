"""ResNeXt-50 32x4d, BN+WS; ImageNet, 100 epochs, 256 images a step."""

_base_ = ['./x50_bn.py', '../_base_/norms/bnws.py']

model = dict(backbone=_base_.layers)
