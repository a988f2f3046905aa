"""Narrow DeepLabV3 R18, GN+WS, on the scenes of digits as masks: five minutes on two cores.

python tools/make_digits.py --voc --out data/digits

Twelve epochs find where digits are, and not yet which: the background has the highest score
everywhere. For a mIoU above that of the background train longer, by `train_cfg.max_iters` and the
`end` of the schedule.
"""

_base_ = ['./deeplabv3_r18_bn_digits.py', '../_base_/norms/gnws.py']

model = dict(
    backbone=_base_.layers,
    decode_head=_base_.layers,
    auxiliary_head=_base_.layers,
)
