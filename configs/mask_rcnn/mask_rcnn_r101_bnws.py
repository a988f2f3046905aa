"""Mask R-CNN R101-FPN, BN+WS; COCO 2x, 2 images per GPU."""

_base_ = [
    '../_base_/models/mask_rcnn_bnws.py',
    '../_base_/backbones/r101.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_2x.py',
    '../_base_/default_runtime.py',
]

model = dict(**_base_.backbone_settings)
