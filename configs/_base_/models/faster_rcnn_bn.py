"""Faster R-CNN FPN; Batch Normalization in the backbone alone, its statistics frozen."""

_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'
