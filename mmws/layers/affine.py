"""Affine Weight Standardization: each filter keeps the mean and the deviation that it came with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from mmws.compat.mmcv_layers import (
    Conv2dAdaptivePadding,
    DeformConv2dPack,
    ModulatedDeformConv2dPack,
)
from mmws.functional import Standardize
from mmws.functional.rows import at_least_float32
from mmws.functional.standardize import standardization, standardize
from mmws.functional.weight_function import Stored
from mmws.registry import MODELS

from .base import WeightFunctionMixin
from .deform import DeformKind, DeformPackKind, ModulatedDeformPackKind
from .kinds import ConvKind, ConvTransposeKind, LinearKind
from .same_padding import SamePaddingKind


class AffineWeightStandardization(WeightFunctionMixin):
    r"""Mixin: Weight Standardization with an affine map that is kept beside it.

    .. math:: \hat W_o = \gamma_o \frac{W_o - \mu_o}{\sqrt{\sigma_o^2 + 10^{-5}}} + \beta_o

    As MMCV's ``ConvAWS`` and DetectoRS (`arXiv 2006.02334 <https://arxiv.org/abs/2006.02334>`_)
    have it, and with their buffers ``weight_gamma`` and ``weight_beta`` :math:`(O, 1, \ldots)`. On
    loading the state dict of a plain layer, and in a conversion, these become the deviation and the
    mean of its filters, so that the layer starts out computing what the plain one did.
    """

    beside_weight = ('weight_gamma', 'weight_beta')
    _eps = 1e-5

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        filters = self.stored_function().filters(self.weight)
        shape = (len(filters), *[1] * (self.weight.dim() - 1))
        self.register_buffer('weight_gamma', self.weight.new_ones(shape))
        self.register_buffer('weight_beta', self.weight.new_zeros(shape))

    def weight_function(self) -> Standardize:
        return standardization(self._eps, 'unbiased', True)

    def formula(self, weight: Tensor) -> Tensor:
        return standardize(weight, 1e-5, True, True, 1.0, self.weight_gamma, self.weight_beta)

    def stored_weights(self) -> Stored:
        return self.weight, self.weight_gamma, self.weight_beta

    @torch.no_grad()
    def reset_beside_weight(self) -> None:
        self.weight_gamma.fill_(1)
        self.weight_beta.zero_()

    def reset_parameters(self) -> None:
        super().reset_parameters()  # type: ignore[misc]  # of the plain layer
        if hasattr(self, 'weight_gamma'):  # not yet, when the plain layer initializes itself
            self.reset_beside_weight()

    def adopt_plain_weight(self) -> None:
        filters = at_least_float32(self.stored_function().filters(self.weight).flatten(1))
        correction = min(1, filters.shape[1] - 1)  # one element has no variance
        variance, mean = torch.var_mean(filters, dim=1, correction=correction)
        self.weight_gamma.copy_((variance + self._eps).sqrt().view_as(self.weight_gamma))
        self.weight_beta.copy_(mean.view_as(self.weight_beta))


@MODELS.register_module('ConvAWS1d')
class ConvAWS1d(AffineWeightStandardization, ConvKind, nn.Conv1d):
    """``nn.Conv1d`` with affine WS, ``type='mmws.ConvAWS1d'``."""


@MODELS.register_module('ConvAWS')
@MODELS.register_module('ConvAWS2d')
class ConvAWS2d(AffineWeightStandardization, ConvKind, nn.Conv2d):
    """``nn.Conv2d`` with affine WS, ``type='mmws.ConvAWS'``."""


@MODELS.register_module('ConvAWS3d')
class ConvAWS3d(AffineWeightStandardization, ConvKind, nn.Conv3d):
    """``nn.Conv3d`` with affine WS, ``type='mmws.ConvAWS3d'``."""


@MODELS.register_module('ConvTransposeAWS1d')
class ConvTransposeAWS1d(AffineWeightStandardization, ConvTransposeKind, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with affine WS, ``type='mmws.ConvTransposeAWS1d'``."""


@MODELS.register_module('deconvAWS')
@MODELS.register_module('ConvTransposeAWS2d')
class ConvTransposeAWS2d(AffineWeightStandardization, ConvTransposeKind, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with affine WS, ``type='mmws.deconvAWS'``."""


@MODELS.register_module('deconv3dAWS')
@MODELS.register_module('ConvTransposeAWS3d')
class ConvTransposeAWS3d(AffineWeightStandardization, ConvTransposeKind, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with affine WS, ``type='mmws.deconv3dAWS'``."""


@MODELS.register_module('LinearAWS')
class LinearAWS(AffineWeightStandardization, LinearKind, nn.Linear):
    """``nn.Linear`` with affine WS, ``type='mmws.LinearAWS'``."""


@MODELS.register_module()
class ConvSamePaddingAWS2d(AffineWeightStandardization, SamePaddingKind, Conv2dAdaptivePadding):
    """MMCV's ``Conv2dAdaptivePadding`` with affine WS, ``type='mmws.ConvSamePaddingAWS2d'``."""


class DeformConvAWS2d(AffineWeightStandardization, DeformKind, DeformConv2d):
    """torchvision's ``DeformConv2d`` with affine WS."""


@MODELS.register_module('DCNAWS')
class DeformConvPackAWS2d(AffineWeightStandardization, DeformPackKind, DeformConv2dPack):
    """MMCV's ``DCN`` with affine WS, ``type='mmws.DCNAWS'``."""


@MODELS.register_module('DCNv2AWS')
class ModulatedDeformConvPackAWS2d(
    AffineWeightStandardization, ModulatedDeformPackKind, ModulatedDeformConv2dPack
):
    """MMCV's ``DCNv2`` with affine WS, ``type='mmws.DCNv2AWS'``."""

    def init_weights(self) -> None:
        super().init_weights()
        if hasattr(self, 'weight_gamma'):  # not yet, when the plain layer initializes itself
            self.reset_beside_weight()

    def reset_parameters(self) -> None:  # MMCV has another name for it
        self.init_weights()
