"""DeepLabV3+ at output stride 16; GN+WS in backbone and heads.

MMSegmentation leaves the depthwise separable convolutions of the head plain.
"""

_base_ = ['./deeplabv3plus_bn.py', '../norms/gnws.py']

model = dict(
    backbone=_base_.layers,
    decode_head=_base_.layers,
    auxiliary_head=_base_.layers,
)
