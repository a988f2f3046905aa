"""DeepLabV3+ at output stride 16; GN in backbone and heads."""

_base_ = ['./deeplabv3plus_bn.py', '../norms/gn.py']

model = dict(
    backbone=_base_.layers,
    decode_head=_base_.layers,
    auxiliary_head=_base_.layers,
)
