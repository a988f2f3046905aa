"""Mask R-CNN R50-FPN, BN*; VOC2012, 2 images per GPU."""

_base_ = [
    '../_base_/models/mask_rcnn_bn.py',
    '../_base_/backbones/r50_bn.py',
    '../_base_/datasets/voc_instance.py',
    '../_base_/schedules/schedule_48e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    roi_head=dict(bbox_head=dict(num_classes=20), mask_head=dict(num_classes=20)),
    **_base_.backbone_settings,
)
