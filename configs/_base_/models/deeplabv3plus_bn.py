"""DeepLabV3+ at output stride 16; synchronized BN.

The stem is the plain one of ResNet, for which weights with every norm are published.
"""

_base_ = 'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-40k_voc12aug-512x512.py'

model = dict(
    pretrained=None,
    backbone=dict(type='ResNet', strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    decode_head=dict(dilations=(1, 6, 12, 18)),
)
custom_imports = dict(imports=['mmws'])
auto_scale_lr = dict(enable=True, base_batch_size=16)
