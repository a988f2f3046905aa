"""Deep Q-learning of CartPole-v1, which needs Gymnasium, `pip install "mmws[gym]"`; with BN."""

default_scope = 'mmdet'
custom_imports = dict(imports=['mmws'])

model = dict(type='mmws.DQN', channels=64, layers=2, discount=0.99, renew=100)
# A training step draws from the memory; `play` then adds to it what the model does.
train_dataloader = dict(
    batch_size=100,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='mmws.CartPoleMemory', capacity=10000, first=500),
)
default_hooks = dict(play=dict(type='mmws.PlayHook', steps=2, first_part=0.5))
val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmws.CartPoleEpisodes', episodes=20),
)
val_evaluator = dict(type='mmws.MeanReturn')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2500, val_interval=500)
val_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='Adam', lr=0.001, fused=True))
