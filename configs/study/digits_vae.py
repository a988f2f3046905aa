"""A small variational autoencoder of handwritten digits, 8x8 pixels, with BN."""

default_scope = 'mmdet'
custom_imports = dict(imports=['mmws'])

model = dict(type='mmws.VAE', units=128, latents=8)
train_dataloader = dict(
    batch_size=10,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='mmws.DigitCounts', split='train'),
)
val_dataloader = dict(
    batch_size=360,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmws.DigitCounts', split='test'),
)
val_evaluator = dict(type='mmws.EvidenceLowerBound')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1437, val_interval=1437)
val_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='Adam', lr=0.001, fused=True))
