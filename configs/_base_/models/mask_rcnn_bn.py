"""Mask R-CNN FPN; Batch Normalization in the backbone alone, its statistics frozen."""

_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
