"""Deformable convolutions with Weight Standardization and with Weight Normalization.

Their operator is torchvision's on every device, with the values and gradients of MMCV's compiled
one but for the order of summation (:mod:`mmws.compat.deform`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.modules.utils import _pair
from torchvision.ops import DeformConv2d

from mmws.compat.deform import DeformGeometry, deform_conv2d, deform_conv2d_backward
from mmws.compat.mmcv_layers import DeformConv2dPack, ModulatedDeformConv2dPack
from mmws.compat.torch_private import autocast_dtype, is_tracing, transforms_active
from mmws.registry import MODELS

from .base import WeightFunctionMixin
from .weight_norm import WeightNormalization
from .weight_standardization import WeightStandardization


class _Deform(torch.autograd.Function):
    """Deformable convolution with MMCV's values and gradients."""

    @staticmethod
    def forward(
        ctx: Any, geometry: DeformGeometry, input: Tensor, weight: Tensor, offset: Tensor,
        mask: Tensor | None, bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.geometry = geometry
        ctx.save_for_backward(input, weight, offset, mask, bias)
        return deform_conv2d(input, weight, offset, mask, bias, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, offset, mask, _ = tensors = ctx.saved_tensors
        grads = deform_conv2d_backward(grad, input, weight, offset, mask, ctx.geometry)
        needs = ctx.needs_input_grad[1:]
        present = zip(grads, tensors, needs)
        return None, *(g.to(t.dtype) if n and g is not None else None for g, t, n in present)


class DeformKind(WeightFunctionMixin):
    """Kind of torchvision's ``DeformConv2d``, called with an offset and perhaps a mask.

    Half precision and autocast compute in float32 and round once: rounded offsets are other
    offsets.
    """

    half_precision = False

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        dtype = input.dtype
        half = None if dtype == torch.float64 else autocast_dtype(input.device.type)
        bias = getattr(self, 'bias', None)  # some of MMCV's layers have none
        weight = self.current_weight()
        if half is not None:
            input, weight, offset = input.float(), weight.float(), offset.float()
            mask, bias = (None if t is None else t.float() for t in (mask, bias))
        taps = self.weight.shape[2] * self.weight.shape[3]
        geometry = DeformGeometry(
            _pair(self.stride), _pair(self.padding), _pair(self.dilation),
            input.shape[1] // self.weight.shape[1], offset.shape[1] // (2 * taps),
        )  # fmt: skip
        if is_tracing() or transforms_active():  # which need an operator with a gradient of its own
            out = deform_conv2d(input, weight, offset, mask, bias, geometry)
        else:
            out = _Deform.apply(geometry, input, weight, offset, mask, bias)
        return out if half is None else out.to(half)


class DeformPackKind(DeformKind):
    """Kind of MMCV's ``DCN``, which finds its offsets by a convolution of its own."""

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]  # as MMCV's layer
        return super().forward(input, self.conv_offset(input))


class ModulatedDeformPackKind(DeformKind):
    """Kind of MMCV's ``DCNv2``, which finds its offsets and mask by a convolution of its own."""

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]  # as MMCV's layer
        offset_y, offset_x, mask = self.conv_offset(input).chunk(3, dim=1)
        return super().forward(input, torch.cat((offset_y, offset_x), dim=1), mask.sigmoid())


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
