backbone_settings = dict(backbone=dict(type='ResNeXt', depth=50, groups=32, base_width=4))
