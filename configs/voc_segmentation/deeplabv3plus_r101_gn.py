"""DeepLabV3+ R101, output stride 16, GN; VOC 2012 with SBD, 40k updates of 16 images."""

_base_ = ['../_base_/models/deeplabv3plus_gn.py', '../_base_/backbones/r101_gn.py']

model = dict(**_base_.backbone_settings)
