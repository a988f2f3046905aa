"""ResNet-50, BN+WS; ImageNet, 100 epochs, 256 images a step."""

_base_ = ['./r50_bn.py', '../_base_/norms/bnws.py']

model = dict(backbone=_base_.layers)
