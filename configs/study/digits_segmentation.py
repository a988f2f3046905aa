"""The narrow DeepLabV3 of digits on crops: what a study starts from, at half of the pixels."""

_base_ = '../voc_segmentation/deeplabv3_r18_bn_digits.py'

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomCrop', crop_size=(128, 128)),
            dict(type='PackSegInputs'),
        ]
    )
)
