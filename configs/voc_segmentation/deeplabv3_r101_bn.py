"""DeepLabV3 R101, output stride 16, BN; VOC 2012 with SBD, 40k updates of 16 images."""

_base_ = ['../_base_/models/deeplabv3_bn.py', '../_base_/backbones/r101_bn.py']

model = dict(**_base_.backbone_settings)
