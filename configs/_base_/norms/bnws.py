"""Batch Normalization after convolutions with Weight Standardization.

It learns from the statistics of its batch, so this one wants many images per GPU.
"""

layers = dict(
    conv_cfg=dict(type='mmws.ConvWS'),
    norm_cfg=dict(type='BN', requires_grad=True),
)
# No backbone with these layers is published: from scratch, or with weights of your own in
# `model.backbone.init_cfg`.
backbone = dict(norm_eval=False, frozen_stages=-1, init_cfg=None, **layers)
