"""Mask R-CNN R50-FPN with GN+WS in backbone, neck, box head and mask head; COCO 2x.

Two images per GPU. The learning rate scales by itself to (GPUs x images per GPU) / 16, so the same
file trains rightly on 8x2, 8x1, 2x1 or 1x1.
"""

_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py'

custom_imports = dict(imports=['mmws'])

conv_cfg = dict(type='mmws.ConvWS')
norm_cfg = dict(type='mmws.GN', num_groups=32)
model = dict(
    backbone=dict(
        conv_cfg=conv_cfg,
        norm_cfg=norm_cfg,
        # BN or GN weights would be loaded without a word and train to a worse detector.
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://jhu/resnet50_gn_ws'),
    ),
    neck=dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            conv_out_channels=256,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
        ),
        mask_head=dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg),
    ),
)

auto_scale_lr = dict(enable=True, base_batch_size=16)
