"""BN with the statistics of all processes, from a pretrained backbone."""

_base_ = './digits_instances_pretrained_bn.py'

# MMCV's, which trains on a CPU as well; PyTorch's needs GPUs.
layers = dict(norm_cfg=dict(type='MMSyncBN'))
model = dict(
    backbone=layers,
    neck=layers,
    roi_head=dict(bbox_head=layers, mask_head=layers),
)
