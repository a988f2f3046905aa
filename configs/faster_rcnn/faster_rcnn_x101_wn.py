"""Faster R-CNN X101-32x4d-FPN, WN; COCO 2x, 2 images per GPU."""

_base_ = [
    '../_base_/models/faster_rcnn_wn.py',
    '../_base_/backbones/x101_bn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_2x.py',
    '../_base_/default_runtime.py',
]

model = dict(**_base_.backbone_settings)
