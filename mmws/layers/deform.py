"""Deformable convolutions with Weight Standardization and with Weight Normalization.

Their operator is torchvision's on every device, with the values and gradients of MMCV's compiled
one but for the order of summation (:mod:`mmws.compat.deform`).
"""

from __future__ import annotations

from torchvision.ops import DeformConv2d

from mmws.compat.mmcv_layers import DeformConv2dPack, ModulatedDeformConv2dPack
from mmws.registry import MODELS

from .kinds import DeformKind, DeformPackKind, ModulatedDeformPackKind
from .weight_norm import WeightNormalization
from .weight_standardization import WeightStandardization


class DeformConvWS2d(WeightStandardization, DeformKind, DeformConv2d):
    """torchvision's ``DeformConv2d`` with Weight Standardization."""


@MODELS.register_module('DCNWS')
class DeformConvPackWS2d(WeightStandardization, DeformPackKind, DeformConv2dPack):
    """MMCV's ``DCN`` with Weight Standardization, ``type='mmws.DCNWS'``."""


@MODELS.register_module('DCNv2WS')
class ModulatedDeformConvPackWS2d(
    WeightStandardization, ModulatedDeformPackKind, ModulatedDeformConv2dPack
):
    """MMCV's ``DCNv2`` with Weight Standardization, ``type='mmws.DCNv2WS'``."""


class DeformConvWN2d(WeightNormalization, DeformKind, DeformConv2d):
    """torchvision's ``DeformConv2d`` with Weight Normalization."""


@MODELS.register_module('DCNWN')
class DeformConvPackWN2d(WeightNormalization, DeformPackKind, DeformConv2dPack):
    """MMCV's ``DCN`` with Weight Normalization, ``type='mmws.DCNWN'``."""


@MODELS.register_module('DCNv2WN')
class ModulatedDeformConvPackWN2d(
    WeightNormalization, ModulatedDeformPackKind, ModulatedDeformConv2dPack
):
    """MMCV's ``DCNv2`` with Weight Normalization, ``type='mmws.DCNv2WN'``."""

    def init_weights(self) -> None:
        super().init_weights()
        if hasattr(self, 'weight_g'):  # not yet, when the plain layer initializes itself
            self.reset_gain()

    def reset_parameters(self) -> None:  # MMCV has another name for it
        self.init_weights()
