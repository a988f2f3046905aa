"""Weight Normalization, https://arxiv.org/abs/1602.07868, in place of activation normalization.

It only reparametrizes, so a backbone with it starts from weights trained with plain convolutions
and computes the same. Its Batch Normalization, with frozen statistics, is but an affine map.
"""

layers = dict(conv_cfg=dict(type='mmws.ConvWN'))
# The layers that do not start from weights are initialised by the first batch.
custom_hooks = [dict(type='mmws.WeightNormInitHook')]
