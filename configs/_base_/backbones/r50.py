backbone_settings = dict(backbone=dict(type='ResNet', depth=50))
