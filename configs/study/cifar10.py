"""BN, GN and GN+WS on small photographs of ten classes.

python tools/study.py configs/study/cifar10.py --data DATA
"""

title = 'Photographs of ten classes, small batches'
about = """
DATA are 600 training and 200 test images of each class of CIFAR-10 (A. Krizhevsky, "Learning
Multiple Layers of Features from Tiny Images", 2009), 32x32.
"""

tasks = dict(
    photographs=dict(
        title='Classification of 6,000 photographs of CIFAR-10, narrow ResNet-18',
        config='folder_classification.py',
        metric='accuracy',
        images=12000,  # two epochs
        rates=(0.001, 0.003, 0.01, 0.03, 0.1),
        evaluations=2,
    ),
)
_gn = dict(type='GN', num_groups=8)
forms = {'BN': dict(), 'GN': dict(norm=_gn), 'GN+WS': dict(conv='WS', norm=_gn)}
grid = [dict(task='photographs', forms=tuple(forms), images_per_step=(1, 8, 64))]
_WS = 'arXiv 1903.10520'
claims = [
    dict(
        text=text,
        task='photographs',
        better=better,
        than=than,
        source=_WS,
    )
    for text, better, than in (
        ('GN+WS at 1 image beats BN at its best batch', ('GN+WS', 1), ('BN', 'best')),
        ('WS helps GN at 1 image', ('GN+WS', 1), ('GN', 1)),
        ('GN+WS at 1 image beats BN at 1 image', ('GN+WS', 1), ('BN', 1)),
    )
]
