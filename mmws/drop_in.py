"""Layers of mmws under MMCV's names: ``custom_imports = dict(imports=['mmws.drop_in'])``.

With this line in a config, ``type='ConvWS'`` and ``type='ConvAWS'`` of an existing config build the
layers of mmws. They compute the same and load the same checkpoints.
"""

from mmcv.cnn.bricks import conv_ws  # noqa: F401  (registers MMCV's first, so that ours stay)
from mmengine.registry import MODELS

from mmws.layers import ConvAWS2d, ConvWS2d

MODELS.register_module('ConvWS', force=True, module=ConvWS2d)
MODELS.register_module('ConvAWS', force=True, module=ConvAWS2d)
