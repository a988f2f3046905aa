"""Faster R-CNN R50-FPN, WN; COCO 1x, 2 images per GPU."""

_base_ = [
    '../_base_/models/faster_rcnn_wn.py',
    '../_base_/backbones/r50_bn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

model = dict(**_base_.backbone_settings)
