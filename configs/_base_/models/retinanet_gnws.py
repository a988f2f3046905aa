"""RetinaNet; GN+WS in backbone, neck and head."""

_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', '../norms/gnws.py']

model = dict(backbone=_base_.layers, neck=_base_.layers, bbox_head=_base_.layers)
