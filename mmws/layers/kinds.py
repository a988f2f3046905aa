"""The kinds of layers: what each does with its weight.

A kind is mixed into one of PyTorch's layers between a weight function and the layer itself. It is
the plain layer's ``forward`` with the effective weight in place of the stored one.

Shapes: N images, C input channels, O output channels, H × W or any other spatial extent.
"""

from __future__ import annotations

from typing import Any, List, NoReturn, Optional  # noqa: UP035 (TorchScript)

import torch
import torch.nn.functional as F
from torch import Tensor

from mmws.functional.transposed import swap_channels

from .base import WeightFunctionMixin


class ConvKind(WeightFunctionMixin):
    """Kind of ``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d``."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._convolve(input, self.formula(self.weight))
        return self._convolve(input, self.current_weight())

    def _convolve(self, input: Tensor, weight: Tensor) -> Tensor:
        """Return what the plain layer computes with ``weight``."""
        dims = len(self.kernel_size)
        if self.padding_mode != 'zeros':
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padded = (input, weight, self.bias, self.stride, 0, self.dilation, self.groups)
            if dims == 1:
                return F.conv1d(*padded)
            if dims == 2:
                return F.conv2d(*padded)
            return F.conv3d(*padded)
        arguments = (
            input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
        )  # fmt: skip
        if dims == 1:
            return F.conv1d(*arguments)
        if dims == 2:
            return F.conv2d(*arguments)
        return F.conv3d(*arguments)

    def _conv_forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        # Tools that fuse Batch Normalization on the fly call this method of a plain convolution.
        raise RuntimeError(
            f'{type(self).__name__}._conv_forward was called with a weight that does not come from '
            'the weight function, as by a tool that fuses Batch Normalization into convolutions '
            '(efficient_conv_bn_eval): call mmws.fold(model) first, and fuse then'
        )


class ConvTransposeKind(WeightFunctionMixin):
    """Kind of ``nn.ConvTranspose1d``, ``nn.ConvTranspose2d`` and ``nn.ConvTranspose3d``."""

    def forward(
        self, input: Tensor, output_size: Optional[List[int]] = None  # noqa: UP006, UP045
    ) -> Tensor:  # fmt: skip
        if self.padding_mode != 'zeros':
            raise ValueError("transposed convolutions support padding_mode='zeros' alone")
        dims = len(self.kernel_size)
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
        )
        if torch.jit.is_scripting():
            swapped = self.formula(swap_channels(self.weight, self.groups))
            weight = swap_channels(swapped, self.groups)
        else:
            weight = self.current_weight()
        arguments = (
            input, weight, self.bias, self.stride, self.padding, output_padding,
            self.groups, self.dilation,
        )  # fmt: skip
        if dims == 1:
            return F.conv_transpose1d(*arguments)
        if dims == 2:
            return F.conv_transpose2d(*arguments)
        return F.conv_transpose3d(*arguments)


class LinearKind(WeightFunctionMixin):
    """Kind of ``nn.Linear``."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return F.linear(input, self.formula(self.weight), self.bias)
        return F.linear(input, self.current_weight(), self.bias)
