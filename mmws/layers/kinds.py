"""The kinds of layers: what each does with its weight, and the gradient of it.

A kind is mixed into one of PyTorch's layers between a weight function and the layer itself.
Operations are linear in the weight and know their gradients, so that
:func:`mmws.functional.apply` can make the weight again in the backward pass.

Shapes: N images, C input channels, O output channels, H × W or any other spatial extent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from mmws.compat.deform import DeformGeometry, deform_conv2d, deform_conv2d_backward

from .base import WeightFunctionMixin


class Convolution(NamedTuple):
    """Convolution and transposed convolution of 1 to 3 spatial dimensions, padded with zeros.

    Inputs: ``input`` :math:`(N, C, *)` and ``bias`` :math:`(O)` or None.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    half_precision = True
    separable = True

    def forward(self, weight: Tensor, input: Tensor, bias: Tensor | None) -> Tensor:
        if input.dim() == len(self.stride) + 1:  # no batch
            return self.forward(weight, input[None], bias)[0]
        return torch.convolution(input, weight, bias, *self)

    def backward(
        self,
        grad: Tensor,
        needs: Sequence[bool],
        weight: Tensor,
        input: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        if input.dim() == len(self.stride) + 1:  # no batch
            grad_weight, grad_input, grad_bias = self.backward(
                grad[None], needs, weight, input[None], bias
            )
            return grad_weight, None if grad_input is None else grad_input[0], grad_bias
        needs_weight, needs_input, needs_bias = needs
        grad_input, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, input, weight, None if bias is None else bias.shape, *self,
            [needs_input, needs_weight, needs_bias],
        )  # fmt: skip
        return grad_weight, grad_input, grad_bias


class ConvKind(WeightFunctionMixin):
    """Kind of ``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d``."""

    def bind(self, input: Tensor) -> tuple[Convolution, tuple[Tensor | None, ...]]:
        padding = self.padding
        if self.padding_mode != 'zeros' or isinstance(padding, str):
            input, padding = self._pad(input)
        convolution = Convolution(
            self.stride, padding, self.dilation, False, self.output_padding, self.groups
        )
        return convolution, (input, self.bias)

    def _pad(self, input: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return the input and the padding with zeros that is left to do."""
        nothing = (0,) * len(self.kernel_size)
        if self.padding == 'valid':
            return input, nothing
        twice = self._reversed_padding_repeated_twice
        if self.padding_mode != 'zeros':
            return F.pad(input, twice, mode=self.padding_mode), nothing
        # For 'same' one side may get more than the other: no convolution does that by itself.
        before, after = twice[-2::-2], twice[::-2]
        return (input, tuple(before)) if before == after else (F.pad(input, twice), nothing)


class ConvTransposeKind(WeightFunctionMixin):
    """Kind of ``nn.ConvTranspose1d``, ``nn.ConvTranspose2d`` and ``nn.ConvTranspose3d``."""

    def bind(
        self, input: Tensor, output_size: list[int] | None = None
    ) -> tuple[Convolution, tuple[Tensor | None, ...]]:
        if self.padding_mode != 'zeros':
            raise ValueError(
                f"transposed convolutions support padding_mode='zeros', got {self.padding_mode!r}"
            )
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size,
            len(self.kernel_size), self.dilation,
        )  # fmt: skip
        convolution = Convolution(
            self.stride, self.padding, self.dilation, True, tuple(output_padding), self.groups
        )
        return convolution, (input, self.bias)


class LinearMap(NamedTuple):
    """The map of ``nn.Linear``. Inputs: ``input`` :math:`(*, C)`, ``bias`` :math:`(O)` or None."""

    half_precision = True
    separable = True

    def forward(self, weight: Tensor, input: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input, weight, bias)

    def backward(
        self,
        grad: Tensor,
        needs: Sequence[bool],
        weight: Tensor,
        input: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        needs_weight, needs_input, needs_bias = needs
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            rows.t() @ input.reshape(-1, input.shape[-1]) if needs_weight else None,
            grad @ weight if needs_input else None,
            rows.sum(0) if needs_bias else None,
        )


class LinearKind(WeightFunctionMixin):
    """Kind of ``nn.Linear``."""

    def bind(self, input: Tensor) -> tuple[LinearMap, tuple[Tensor | None, ...]]:
        return LinearMap(), (input, self.bias)


class DeformableConvolution(NamedTuple):
    r"""Deformable convolution with MMCV's semantics (:mod:`mmws.compat.deform`).

    The operator is the one of `arXiv 1703.06211 <https://arxiv.org/abs/1703.06211>`_ and, with a
    mask, of `arXiv 1811.11168 <https://arxiv.org/abs/1811.11168>`_. Half precision is computed in
    float32 and rounded once.

    Inputs: ``input`` :math:`(N, C, H, W)`; ``offset`` :math:`(N, 2GK, H', W')` for ``G`` groups of
    offsets and ``K`` kernel elements, y before x; ``mask`` :math:`(N, GK, H', W')` or None;
    ``bias`` :math:`(O)` or None.
    """

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    half_precision = False  # rounded offsets are other offsets
    separable = False

    def forward(
        self,
        weight: Tensor,
        input: Tensor,
        offset: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        geometry = self._geometry(weight, input, offset)
        return deform_conv2d(input, weight, offset, mask, bias, geometry)

    def backward(
        self,
        grad: Tensor,
        needs: Sequence[bool],
        weight: Tensor,
        input: Tensor,
        offset: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        geometry = self._geometry(weight, input, offset)
        grads = deform_conv2d_backward(grad, input, weight, offset, mask, geometry)
        grad_input, grad_weight, grad_offset, grad_mask, grad_bias = grads
        return tuple(
            g.to(t.dtype) if need else None
            for g, t, need in zip(
                (grad_weight, grad_input, grad_offset, grad_mask, grad_bias),
                (weight, input, offset, mask, bias),
                needs,
            )
        )

    def _geometry(self, weight: Tensor, input: Tensor, offset: Tensor) -> DeformGeometry:
        groups = input.shape[1] // weight.shape[1]
        offset_groups = offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])
        return DeformGeometry(*self, groups, offset_groups)


class DeformKind(WeightFunctionMixin):
    """Kind of torchvision's ``DeformConv2d``, called with an offset and perhaps a mask."""

    def bind(
        self, input: Tensor, offset: Tensor, mask: Tensor | None = None
    ) -> tuple[DeformableConvolution, tuple[Tensor | None, ...]]:
        convolution = DeformableConvolution(
            _pair(self.stride), _pair(self.padding), _pair(self.dilation)
        )
        return convolution, (input, offset, mask, getattr(self, 'bias', None))


class DeformPackKind(DeformKind):
    """Kind of MMCV's ``DCN``, which finds its offsets by a convolution of its own."""

    def bind(self, input: Tensor) -> tuple[DeformableConvolution, tuple[Tensor | None, ...]]:
        return super().bind(input, self.conv_offset(input))


class ModulatedDeformPackKind(DeformKind):
    """Kind of MMCV's ``DCNv2``, which finds its offsets and mask by a convolution of its own."""

    def bind(self, input: Tensor) -> tuple[DeformableConvolution, tuple[Tensor | None, ...]]:
        offset_y, offset_x, mask = self.conv_offset(input).chunk(3, dim=1)
        return super().bind(input, torch.cat((offset_y, offset_x), dim=1), mask.sigmoid())
