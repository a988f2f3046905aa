"""Mask R-CNN FPN with convolutions, which can be normalized, in the box head."""

_base_ = './mask_rcnn_bn.py'

model = dict(
    roi_head=dict(bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256)),
)
