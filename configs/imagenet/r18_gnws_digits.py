"""Narrow ResNet-18, GN+WS, on folders of handwritten digits: `r50_gnws.py` in a minute.

python tools/make_digits.py --single --out data/digit_images
"""

_base_ = ['./r18_bn_digits.py', '../_base_/norms/gnws.py']

model = dict(backbone=_base_.layers)
