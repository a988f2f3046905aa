"""Classification of handwritten digits, enlarged to 64x64, by a narrow ResNet-18 with BN."""

default_scope = 'mmdet'
custom_imports = dict(imports=['mmws'])

model = dict(
    type='mmws.Classifier',
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=16,
        strides=(1, 2, 2, 1),  # the last feature map is 4x4
        out_indices=(3,),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
    ),
    channels=128,
    num_classes=10,
)
train_dataloader = dict(
    batch_size=1,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='mmws.DigitImages', split='train', size=64),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmws.DigitImages', split='test', size=64),
)
val_evaluator = dict(type='mmws.Accuracy')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2874, val_interval=2874)
val_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.003, momentum=0.9, weight_decay=5e-4),
    clip_grad=dict(max_norm=10, norm_type=2),
)
