"""The demo's Mask R-CNN and digits, with plain convolutions and BN: what a study starts from."""

_base_ = '../mask_rcnn_r18_gnws_digits.py'

layers = dict(conv_cfg=None, norm_cfg=dict(_delete_=True, type='BN', requires_grad=True))
model = dict(
    backbone=dict(norm_eval=False, **layers),
    neck=layers,
    roi_head=dict(bbox_head=layers, mask_head=layers),
)
