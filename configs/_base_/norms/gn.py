"""Group Normalization, https://arxiv.org/abs/1803.08494."""

layers = dict(norm_cfg=dict(type='mmws.GN', num_groups=32))
