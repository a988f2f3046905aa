"""Convolutions that pad by the size of their input, as TensorFlow's ``SAME`` does."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmws.compat.mmcv_layers import Conv2dAdaptivePadding
from mmws.registry import MODELS

from .kinds import ConvKind
from .weight_norm import WeightNormalization
from .weight_standardization import WeightStandardization


class SamePaddingKind(ConvKind):
    """Kind of MMCV's ``Conv2dAdaptivePadding``, and of timm's ``Conv2dSame``."""

    def forward(self, input: Tensor) -> Tensor:
        pads: list[int] = []
        sizes = zip(input.shape[2:], self.kernel_size, self.stride, self.dilation)
        for size, kernel, stride, dilation in sizes:
            last = (-(-size // stride) - 1) * stride  # where the filter is put last
            pad = max(last + (kernel - 1) * dilation + 1 - size, 0)
            pads = [pad // 2, pad - pad // 2, *pads]  # F.pad begins with the last dimension
        return super().forward(F.pad(input, pads) if any(pads) else input)


@MODELS.register_module()
class ConvSamePaddingWS2d(WeightStandardization, SamePaddingKind, Conv2dAdaptivePadding):
    """MMCV's ``Conv2dAdaptivePadding`` with WS, ``type='mmws.ConvSamePaddingWS2d'``."""


@MODELS.register_module()
class ConvSamePaddingWN2d(WeightNormalization, SamePaddingKind, Conv2dAdaptivePadding):
    """MMCV's ``Conv2dAdaptivePadding`` with WN, ``type='mmws.ConvSamePaddingWN2d'``."""
