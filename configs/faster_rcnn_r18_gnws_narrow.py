"""A narrow Faster R-CNN R18-FPN with GN+WS for small images: learns from scratch in CPU minutes.

Boxes alone; otherwise as `mask_rcnn_r18_gnws_narrow.py`. Made to be inherited, by
`tools/new_config.py DATA --boxes --narrow`. Two images a step in all, e.g. 2 processes x 1 image.
"""

_base_ = './mask_rcnn_r18_gnws_narrow.py'

model = dict(
    type='FasterRCNN',
    roi_head=dict(mask_head=None, mask_roi_extractor=None),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomCrop', crop_size=(192, 192)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=1.0, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
