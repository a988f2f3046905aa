"""Faster R-CNN R50-FPN, GN; VOC07+12, 2 images per GPU."""

_base_ = [
    '../_base_/models/faster_rcnn_gn.py',
    '../_base_/backbones/r50_gn.py',
    '../_base_/datasets/voc_detection.py',
    '../_base_/schedules/schedule_voc.py',
    '../_base_/default_runtime.py',
]

model = dict(
    roi_head=dict(bbox_head=dict(num_classes=20)),
    **_base_.backbone_settings,
)
