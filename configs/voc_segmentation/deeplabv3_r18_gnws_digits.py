"""Narrow DeepLabV3 R18, GN+WS, on the scenes of digits as masks: some minutes on two cores.

python tools/make_digits.py --voc --out data/digits
"""

_base_ = ['./deeplabv3_r18_bn_digits.py', '../_base_/norms/gnws.py']

model = dict(
    backbone=_base_.layers,
    decode_head=_base_.layers,
    auxiliary_head=_base_.layers,
)
