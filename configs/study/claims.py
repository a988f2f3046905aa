"""What the papers claim, as trainings that two CPU cores can do.

python tools/study.py configs/study/claims.py
"""

title = 'The claims of the papers, at the size of a laptop'

tasks = dict(
    classification=dict(
        title='Classification of handwritten digits, narrow ResNet-18',
        config='digits_classification.py',
        metric='accuracy',
        images=2874,  # two epochs
        # The best rates of BN and GN lie a factor of 30 apart: three values do not reach both.
        rates=(0.001, 0.003, 0.01, 0.03, 0.1),
        evaluations=2,
    ),
    instances=dict(
        title='Instance segmentation of digits on textured scenes, narrow Mask R-CNN',
        config='digits_instances.py',
        metric='segm_mAP',
        images=800,
        rates=(0.00025, 0.0005, 0.001),
    ),
    sequences=dict(
        title='Classification of digits from their rows, LSTM',
        config='digits_sequences.py',
        metric='accuracy',
        images=5748,  # four epochs
        rates=(0.003, 0.01, 0.03),
        evaluations=6,
        unit='sequence',
    ),
    vae=dict(
        title='Variational autoencoder of handwritten digits, evidence lower bound in nats',
        config='digits_vae.py',
        metric='elbo',
        images=10000,  # seven epochs
        rates=(0.0001, 0.0003, 0.001),
        evaluations=5,
        floor=-252.0,  # the mean image, as a binomial distribution of each pixel
    ),
    cartpole=dict(
        title='Q-learning of CartPole, mean return of 20 episodes',
        config='cartpole_dqn.py',
        metric='mean_return',
        images=250000,
        rates=(0.000003, 0.00001, 0.00003),
        evaluations=5,
        unit='transition',
    ),
)
# The models are narrow: 32 groups would leave some layers one channel a group, Instance Norm.
_gn = dict(type='GN', num_groups=8)
forms = {
    'BN': dict(),
    'GN': dict(norm=_gn),
    'WN': dict(conv='WN', norm=None, init=True),
    'BN+WS': dict(conv='WS'),
    'GN+WS': dict(conv='WS', norm=_gn),
    'WN, no init': dict(conv='WN', norm=None),
    'neither': dict(norm=None),
    'plain': dict(),
    'LN': dict(norm=dict(type='GN', num_groups=1)),
    'IN': dict(norm='IN'),
    'BCN+WS': dict(conv='WS', norm=dict(type='BCN', num_groups=8)),
}
_all = ('BN', 'GN', 'WN', 'BN+WS', 'GN+WS')
_wn = ('BN', 'WN', 'WN, no init', 'neither')
grid = [
    dict(task='instances', forms=_all, images_per_step=(1, 2, 8)),
    # Three seeds left the claims at one image open.
    dict(task='instances', forms=_all, images_per_step=(1,), seeds=(3, 4, 5, 6, 7)),
    dict(task='classification', forms=_all, images_per_step=(1, 8, 64)),
    # As many updates as 8 images a step make of two epochs.
    dict(task='classification', forms=_all, images_per_step=(1, 8, 64), updates=359),
    # Weight Normalization's own claims: larger rates, and that its initialisation matters.
    dict(
        task='sequences',
        forms=('plain', 'WN, no init'),
        images_per_step=(8,),
        rates=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    ),
    dict(
        task='classification',
        forms=('BN', 'WN', 'WN, no init', 'neither'),
        images_per_step=(8,),
        rates=(0.003, 0.01, 0.03, 0.1, 0.3),
    ),
    dict(
        task='vae',
        forms=_wn,
        images_per_step=(10,),
        rates=(0.0001, 0.0003, 0.001, 0.003, 0.01),
    ),
    dict(
        task='cartpole',
        forms=_wn,
        images_per_step=(100,),
        rates=(0.000003, 0.00001, 0.00003, 0.0001, 0.0003),
    ),
    # The other norms that the paper of Weight Standardization compares.
    dict(task='instances', forms=('LN', 'IN', 'BCN+WS'), images_per_step=(1, 2, 8)),
    dict(task='instances', forms=_all, images_per_step=(4,)),
]
_WS = 'arXiv 1903.10520'
_WN = 'arXiv 1602.07868'
claims = [
    dict(
        text=text,
        task=task,
        better=better,
        than=than,
        source=source,
    )
    for task in ('instances', 'classification')
    for text, better, than, source in (
        ('GN+WS at 1 image beats BN at its best batch', ('GN+WS', 1), ('BN', 'best'), _WS),
        ('WS helps GN at 1 image', ('GN+WS', 1), ('GN', 1), _WS),
        ('WS helps BN at a large batch', ('BN+WS', 'best'), ('BN', 'best'), _WS),
        ('GN+WS at 1 image beats BN at 1 image', ('GN+WS', 1), ('BN', 1), _WS),
        ('WN at 1 image beats BN at 1 image', ('WN', 1), ('BN', 1), _WN),
    )
]
# What the sweeps say of Weight Normalization, each form at its own learning rates.
claims += [
    dict(
        text=text,
        task=task,
        better=(better, images),
        than=(than, images),
        source=_WN,
        rate=rate,
    )
    for task, images in (('classification', 8), ('vae', 10), ('cartpole', 100))
    for text, better, than, rate in (
        ('WN at its best rate beats neither', 'WN', 'neither', 'best'),
        ('WN at its best rate beats BN at its best rate', 'WN', 'BN', 'best'),
        ('The initialisation helps WN at its best rate', 'WN', 'WN, no init', 'best'),
        ('WN trains with larger rates than neither', 'WN', 'neither', 'largest'),
        ('The initialisation allows WN larger rates', 'WN', 'WN, no init', 'largest'),
    )
]
claims += [
    dict(
        text=text,
        task='sequences',
        better=('WN, no init', 8),
        than=('plain', 8),
        source=_WN,
        rate=rate,
    )
    for text, rate in (
        ('WN at its best rate beats a plain LSTM', 'best'),
        ('WN trains an LSTM with larger rates', 'largest'),
    )
]
