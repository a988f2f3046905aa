"""Faster R-CNN X50-32x4d-FPN, GN; COCO 2x, 2 images per GPU."""

_base_ = [
    '../_base_/models/faster_rcnn_gn.py',
    '../_base_/backbones/x50_gn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_2x.py',
    '../_base_/default_runtime.py',
]

model = dict(**_base_.backbone_settings)
