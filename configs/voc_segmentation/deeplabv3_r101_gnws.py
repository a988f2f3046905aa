"""DeepLabV3 R101, output stride 16, GN+WS; VOC 2012 with SBD, 40k updates of 16 images."""

_base_ = ['../_base_/models/deeplabv3_gnws.py', '../_base_/backbones/r101_gnws.py']

model = dict(**_base_.backbone_settings)
