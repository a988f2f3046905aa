"""Detection on VOC: train on 2007 trainval and 2012 trainval, test on 2007 test.

The annotation files are written by

    python tools/dataset_converters/voc_instances.py data/VOCdevkit/VOC2007 \
        --splits trainval test --boxes
    python tools/dataset_converters/voc_instances.py data/VOCdevkit/VOC2012 \
        --splits trainval --boxes
"""

_base_ = './voc_instance.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=_base_.scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_base_.scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
data_root = 'data/VOCdevkit/'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        _scope_='mmdet',
        type='ConcatDataset',
        datasets=[
            dict(
                type='CocoDataset',
                data_root=f'{data_root}{year}/',
                ann_file='annotations/boxes_trainval.json',
                data_prefix=dict(img='JPEGImages/'),
                metainfo=_base_.metainfo,
                filter_cfg=dict(filter_empty_gt=True, min_size=32),
                pipeline=train_pipeline,
            )
            for year in ('VOC2007', 'VOC2012')
        ],
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=f'{data_root}VOC2007/',
        ann_file='annotations/boxes_test.json',
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=f'{data_root}VOC2007/annotations/boxes_test.json', metric='bbox')
test_evaluator = val_evaluator
