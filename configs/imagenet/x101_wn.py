"""ResNeXt-101 32x4d, WN and no norm; ImageNet, 100 epochs, 256 images a step."""

_base_ = './x101_bn.py'

model = dict(_delete_=True, type='mmws.InForm', model={{_base_.model}}, conv='WN', norm=None)
# The first batch decides scale and bias of each layer.
custom_hooks = [dict(type='mmws.WeightNormInitHook')]
