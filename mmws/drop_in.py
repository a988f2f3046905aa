"""Layers of mmws under MMCV's names: ``custom_imports = dict(imports=['mmws.drop_in'])``.

With this line in a config, ``type='ConvWS'`` and ``type='ConvAWS'`` of an existing config build the
layers of mmws. They compute the same and load the same checkpoints.
"""

from mmws.compat import require_stack

require_stack('mmws.drop_in')

from mmcv.cnn.bricks import conv_ws  # noqa: E402, F401  (registers MMCV's first, so that ours stay)
from mmengine.registry import MODELS  # noqa: E402

from mmws.layers import ConvAWS2d, ConvWS2d  # noqa: E402

MODELS.register_module('ConvWS', force=True, module=ConvWS2d)
MODELS.register_module('ConvAWS', force=True, module=ConvAWS2d)
