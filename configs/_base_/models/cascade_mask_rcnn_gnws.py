"""Cascade Mask R-CNN FPN; GN+WS in backbone, neck, the three box heads and the mask head."""

_base_ = ['mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py', '../norms/gnws.py']

model = dict(
    backbone=_base_.layers,
    neck=_base_.layers,
    roi_head=dict(
        # A list takes the place of the base's as a whole.
        bbox_head=[
            dict(head, type='Shared4Conv1FCBBoxHead', conv_out_channels=256, **_base_.layers)
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_head=_base_.layers,
    ),
)
