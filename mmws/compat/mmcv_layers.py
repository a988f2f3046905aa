"""The layers of MMCV that mmws derives from, and what stands for them where MMCV is missing.

Where MMCV is installed, the names below are its own classes. Otherwise they are layers that have
the same arguments, parameter names and outputs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from .deform import DeformGeometry, deform_conv2d
from .stack import is_installed

__all__ = ['Conv2dAdaptivePadding', 'DeformConv2dPack', 'ModulatedDeformConv2dPack']

if TYPE_CHECKING or is_installed('mmcv', 'mmengine'):
    from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding
    from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
else:

    class Conv2dAdaptivePadding(nn.Conv2d):
        r"""Convolution that pads by the size of its input, as TensorFlow's ``SAME`` does.

        Output positions :math:`\lceil H / s \rceil \times \lceil W / s \rceil` for an input
        :math:`(N, C, H, W)` and stride :math:`s`. The argument ``padding`` is ignored.
        """

        def __init__(
            self,
            in_channels: int,
            out_channels: int,
            kernel_size: int | tuple[int, int],
            stride: int | tuple[int, int] = 1,
            padding: int | tuple[int, int] = 0,
            dilation: int | tuple[int, int] = 1,
            groups: int = 1,
            bias: bool = True,
        ) -> None:
            super().__init__(
                in_channels, out_channels, kernel_size, stride, 0, dilation, groups, bias
            )

        def forward(self, input: Tensor) -> Tensor:
            pads: list[int] = []
            sizes = zip(input.shape[2:], self.kernel_size, self.stride, self.dilation)
            for size, kernel, stride, dilation in sizes:
                extent = (math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1
                pad = max(extent - size, 0)
                pads = [pad // 2, pad - pad // 2, *pads]  # F.pad begins with the last dimension
            return super().forward(F.pad(input, pads))

    class _DeformablePack(nn.Module):
        """Deformable convolution that computes its offsets by a convolution of its own.

        Input :math:`(N, C, H, W)`, output :math:`(N, O, H', W')`. The weights of ``conv_offset``
        start at 0, so that the layer starts as a plain convolution.
        """

        values_per_tap: int  # channels of conv_offset for each kernel tap

        def __init__(
            self,
            in_channels: int,
            out_channels: int,
            kernel_size: int | tuple[int, int],
            stride: int | tuple[int, int] = 1,
            padding: int | tuple[int, int] = 0,
            dilation: int | tuple[int, int] = 1,
            groups: int = 1,
            deform_groups: int = 1,
        ) -> None:
            super().__init__()
            if in_channels % groups or out_channels % groups:
                raise ValueError(
                    f'groups={groups} must divide the {in_channels} input channels and the '
                    f'{out_channels} output channels'
                )
            self.in_channels, self.out_channels = in_channels, out_channels
            self.kernel_size, self.stride = _pair(kernel_size), _pair(stride)
            self.padding, self.dilation = _pair(padding), _pair(dilation)
            self.groups, self.deform_groups = groups, deform_groups
            self.weight = nn.Parameter(
                torch.empty(out_channels, in_channels // groups, *self.kernel_size)
            )
            self.conv_offset = nn.Conv2d(
                in_channels,
                deform_groups * self.values_per_tap * math.prod(self.kernel_size),
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
            )

        def init_offset(self) -> None:
            nn.init.zeros_(self.conv_offset.weight)
            nn.init.zeros_(self.conv_offset.bias)

        def _convolve(
            self, input: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
        ) -> Tensor:
            geometry = DeformGeometry(
                self.stride, self.padding, self.dilation, self.groups, self.deform_groups
            )
            return deform_conv2d(input, self.weight, offset, mask, bias, geometry)

    class DeformConv2dPack(_DeformablePack):
        """Deformable convolution (arXiv 1703.06211, eq. 2), MMCV's ``DCN``. It has no bias."""

        values_per_tap = 2

        def __init__(self, *args: Any, bias: bool = False, **kwargs: Any) -> None:
            if bias:
                raise ValueError('DeformConv2dPack has no bias: pass bias=False')
            super().__init__(*args, **kwargs)
            self.reset_parameters()
            self.init_offset()

        def reset_parameters(self) -> None:
            nn.init.kaiming_uniform_(self.weight, nonlinearity='relu')

        def forward(self, input: Tensor) -> Tensor:
            return self._convolve(input, self.conv_offset(input), None, None)

    class ModulatedDeformConv2dPack(_DeformablePack):
        """Modulated deformable convolution (arXiv 1811.11168, eq. 1), MMCV's ``DCNv2``."""

        values_per_tap = 3

        def __init__(self, *args: Any, bias: bool = True, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            value = nn.Parameter(torch.empty(self.out_channels)) if bias else None
            self.register_parameter('bias', value)
            self.init_weights()

        def init_weights(self) -> None:
            bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
            nn.init.uniform_(self.weight, -bound, bound)
            if self.bias is not None:
                nn.init.zeros_(self.bias)
            self.init_offset()

        def forward(self, input: Tensor) -> Tensor:
            offset_y, offset_x, mask = self.conv_offset(input).chunk(3, dim=1)
            offset = torch.cat((offset_y, offset_x), dim=1)
            return self._convolve(input, offset, mask.sigmoid(), self.bias)
