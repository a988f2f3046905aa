"""Faster R-CNN FPN; GN+WS in backbone, neck, box head."""

_base_ = ['./faster_rcnn_4conv1fc.py', '../norms/gnws.py']

model = dict(
    backbone=_base_.layers,
    neck=_base_.layers,
    roi_head=dict(bbox_head=_base_.layers),
)
