from mmws.compat import require_stack

require_stack('mmws.backbones')

from .resnet_v2 import ResNetV2

__all__ = ['ResNetV2']
