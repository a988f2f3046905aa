_base_ = './r50.py'

backbone_settings = dict(
    # Detectron's networks take BGR and were trained without a division by the deviation.
    data_preprocessor=dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron/resnet50_gn')
    ),
)
