"""Weight Standardization and its relatives: layers whose filters have zero mean, unit variance."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from mmws.functional import Standardize
from mmws.functional.standardize import standardization, standardize
from mmws.functional.weight_function import Stored
from mmws.registry import MODELS

from .base import WeightFunctionMixin
from .kinds import ConvKind, ConvTransposeKind, LinearKind


class WeightStandardization(WeightFunctionMixin):
    r"""Mixin: compute with :math:`(W_o - \mu_o) / (\sigma_o + \epsilon)` for every filter ``o``.

    Weight Standardization (`arXiv 1903.10520 <https://arxiv.org/abs/1903.10520>`_). Parameters and
    state-dict keys are those of the plain layer. The defaults are the paper's and MMCV's
    ``ConvWS``; those of BiT and of timm's ``StdConv2d`` are
    ``eps=1e-6, variance='biased', eps_inside=True``.

    Args:
        *args: As for the plain layer.
        eps: :math:`\epsilon`.
        variance: ``'unbiased'`` or ``'biased'``, how :math:`\sigma_o` is estimated.
        eps_inside: Divide by :math:`\sqrt{\sigma_o^2 + \epsilon}` instead.
        **kwargs: As for the plain layer.

    Raises:
        ValueError: if ``eps`` is negative or ``variance`` another word.
    """

    def __init__(
        self,
        *args: Any,
        eps: float = 1e-5,
        variance: str = 'unbiased',
        eps_inside: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps
        self.variance = variance
        self.eps_inside = eps_inside
        self.weight_function()  # checks the arguments

    def weight_function(self) -> Standardize:
        return standardization(self.eps, self.variance, self.eps_inside)

    def formula(self, weight: Tensor) -> Tensor:
        return standardize(weight, self.eps, self.variance == 'unbiased', self.eps_inside, 1.0)

    def extra_repr(self) -> str:
        text = f'{super().extra_repr()}, eps={self.eps}'
        if self.variance != 'unbiased':
            text += f', variance={self.variance!r}'
        return text + (', eps_inside=True' if self.eps_inside else '')


@MODELS.register_module('ConvWS1d')
class ConvWS1d(WeightStandardization, ConvKind, nn.Conv1d):
    """``nn.Conv1d`` with Weight Standardization, ``type='mmws.ConvWS1d'``."""


@MODELS.register_module('ConvWS')
@MODELS.register_module('ConvWS2d')
class ConvWS2d(WeightStandardization, ConvKind, nn.Conv2d):
    """``nn.Conv2d`` with Weight Standardization, ``type='mmws.ConvWS'``."""


@MODELS.register_module('ConvWS3d')
class ConvWS3d(WeightStandardization, ConvKind, nn.Conv3d):
    """``nn.Conv3d`` with Weight Standardization, ``type='mmws.ConvWS3d'``."""


@MODELS.register_module('ConvTransposeWS1d')
class ConvTransposeWS1d(WeightStandardization, ConvTransposeKind, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with Weight Standardization, ``type='mmws.ConvTransposeWS1d'``."""


@MODELS.register_module('deconvWS')
@MODELS.register_module('ConvTransposeWS2d')
class ConvTransposeWS2d(WeightStandardization, ConvTransposeKind, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with Weight Standardization, ``type='mmws.deconvWS'``."""


@MODELS.register_module('deconv3dWS')
@MODELS.register_module('ConvTransposeWS3d')
class ConvTransposeWS3d(WeightStandardization, ConvTransposeKind, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with Weight Standardization, ``type='mmws.deconv3dWS'``."""


@MODELS.register_module('LinearWS')
class LinearWS(WeightStandardization, LinearKind, nn.Linear):
    """``nn.Linear`` with Weight Standardization, ``type='mmws.LinearWS'``."""


@MODELS.register_module('ScaledWS')
@MODELS.register_module('ScaledConvWS2d')
class ScaledConvWS2d(ConvKind, nn.Conv2d):
    r"""Scaled Weight Standardization of the NF-Nets, ``type='mmws.ScaledWS'``.

    .. math::
        \hat W_o = g_o \frac{\gamma}{\sqrt{n}} \frac{W_o - \mu_o}{\sqrt{\sigma_o^2 + \epsilon}}

    `arXiv 2101.08692 <https://arxiv.org/abs/2101.08692>`_, eq. 2, with the biased variance of the
    ``n`` elements of a filter. Parameters are those of timm's ``ScaledStdConv2d``: ``gain``
    :math:`(O, 1, 1, 1)` beside those of the plain layer. A state dict of the plain layer loads
    and leaves the gain alone.

    Args:
        *args: As for ``nn.Conv2d``.
        gamma: :math:`\gamma`, which makes up for the nonlinearity that follows.
        eps: :math:`\epsilon`.
        gain_init: Initial value of the gains :math:`g_o`.
        **kwargs: As for ``nn.Conv2d``.
    """

    beside_weight = ('gain',)

    def __init__(
        self,
        *args: Any,
        gamma: float = 1.0,
        eps: float = 1e-6,
        gain_init: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.gamma = gamma
        self.eps = eps
        self.gain_init = gain_init
        self.gain = nn.Parameter(self.weight.new_full((self.out_channels, 1, 1, 1), gain_init))

    def weight_function(self) -> Standardize:
        scale = self.gamma * math.prod(self.weight.shape[1:]) ** -0.5
        return standardization(self.eps, 'biased', True, scale)

    def formula(self, weight: Tensor) -> Tensor:
        scale = self.gamma * (weight.numel() / weight.shape[0]) ** -0.5
        return standardize(weight, self.eps, False, True, scale, self.gain)

    def stored_weights(self) -> Stored:
        return self.weight, self.gain

    def reset_beside_weight(self) -> None:
        nn.init.constant_(self.gain, self.gain_init)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, 'gain'):  # not yet, when the plain layer initializes itself
            self.reset_beside_weight()

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, gamma={self.gamma}, eps={self.eps}'
