"""DeepLabV3 at output stride 16; GN+WS in backbone and heads."""

_base_ = ['./deeplabv3_bn.py', '../norms/gnws.py']

model = dict(
    backbone=_base_.layers,
    decode_head=_base_.layers,
    auxiliary_head=_base_.layers,
)
