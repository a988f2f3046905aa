"""The narrow Mask R-CNN with plain convolutions and BN, for a study of your own data.

python tools/study.py configs/study/nuclei.py --data DATA
"""

_base_ = '../mask_rcnn_r18_gnws_narrow.py'

layers = dict(conv_cfg=None, norm_cfg=dict(_delete_=True, type='BN', requires_grad=True))
model = dict(
    backbone=dict(norm_eval=False, **layers),
    neck=layers,
    roi_head=dict(bbox_head=layers, mask_head=layers),
)
