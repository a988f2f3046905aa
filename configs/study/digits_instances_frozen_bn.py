"""What is usual with few images: a pretrained backbone with frozen BN, and no norm elsewhere."""

_base_ = './digits_instances_pretrained_bn.py'

layers = dict(conv_cfg=None, norm_cfg=None)
model = dict(
    backbone=dict(norm_eval=True, norm_cfg=dict(requires_grad=False)),
    neck=layers,
    roi_head=dict(bbox_head=layers, mask_head=layers),
)
