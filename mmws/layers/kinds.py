"""The kinds of layers: what each does with its weight.

A kind is mixed into one of PyTorch's layers between a weight function and the layer itself. It is
the plain layer's ``forward`` with the effective weight in place of the stored one.

Shapes: N images, C input channels, O output channels, H × W or any other spatial extent.
"""

from __future__ import annotations

from typing import List, Optional  # noqa: UP035 (TorchScript)

import torch
import torch.nn.functional as F
from torch import Tensor

from mmws.functional.transposed import swap_channels

from .base import WeightFunctionMixin


class ConvKind(WeightFunctionMixin):
    """Kind of ``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d``."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._conv_forward(input, self.formula(self.weight), self.bias)
        return self._conv_forward(input, self.current_weight(), self.bias)


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
