"""Group Normalization after convolutions with Weight Standardization."""

layers = dict(
    conv_cfg=dict(type='mmws.ConvWS'),
    norm_cfg=dict(type='mmws.GN', num_groups=32),
)
