"""Faster R-CNN R101-FPN, GN+WS; COCO 20-23-24e, 2 images per GPU."""

_base_ = [
    '../_base_/models/faster_rcnn_gnws.py',
    '../_base_/backbones/r101_gnws.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_20-23-24e.py',
    '../_base_/default_runtime.py',
]

model = dict(**_base_.backbone_settings)
