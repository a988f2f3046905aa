"""Narrow DeepLabV3 R18, GN+WS, on the scenes of digits as masks: some minutes on two cores.

python tools/make_digits.py --voc --out data/digits

Twelve epochs with GN+WS find where digits are, and not yet which: the background has the highest
score everywhere. Longer trainings, by `train_cfg.max_iters` and the schedule, were not tried.
"""

_base_ = ['./deeplabv3_r18_bn_digits.py', '../_base_/norms/gnws.py']

model = dict(
    backbone=_base_.layers,
    decode_head=_base_.layers,
    auxiliary_head=_base_.layers,
)
