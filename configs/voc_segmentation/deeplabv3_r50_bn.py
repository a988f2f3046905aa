"""DeepLabV3 R50, output stride 16, BN; VOC 2012 with SBD, 40k updates of 16 images."""

_base_ = ['../_base_/models/deeplabv3_bn.py', '../_base_/backbones/r50_bn.py']

model = dict(**_base_.backbone_settings)
