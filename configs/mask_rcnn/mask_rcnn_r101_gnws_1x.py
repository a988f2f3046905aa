"""Mask R-CNN R101-FPN, GN+WS; COCO 1x, 2 images per GPU."""

_base_ = [
    '../_base_/models/mask_rcnn_gnws.py',
    '../_base_/backbones/r101_gnws.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

model = dict(**_base_.backbone_settings)
