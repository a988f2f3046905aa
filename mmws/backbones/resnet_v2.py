"""The ResNet of Big Transfer (BiT): pre-activation blocks, Weight Standardization and GN."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
import torch.utils.checkpoint
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmws.registry import MODELS

# The number of blocks in each stage.
_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class PreActBottleneck(nn.Module):
    r"""Bottleneck block whose norms and ReLUs come before its convolutions.

    The block is that of `arXiv 1603.05027 <https://arxiv.org/abs/1603.05027>`_, figure 4e, with the
    stride in the 3 × 3 convolution. In a block that changes resolution or channels, the shortcut is
    a 1 × 1 convolution (projection) of the normalized and activated input.

    Args:
        in_channels: ``C`` of the input :math:`(N, C, H, W)`.
        out_channels: ``C'`` of the output
            :math:`(N, C', \lceil H / stride \rceil, \lceil W / stride \rceil)`.
        stride: Stride of the 3 × 3 convolution and the projection.
        conv_cfg: Config of the convolutions.
        norm_cfg: Config of the norms.
        with_cp: Keep only the input for the backward pass, which computes the block again
            (activation checkpointing).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        conv_cfg: dict[str, Any],
        norm_cfg: dict[str, Any],
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        width = out_channels // 4
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            projection = _conv(conv_cfg, in_channels, out_channels, 1, stride)
            self.downsample = nn.Sequential(OrderedDict(conv=projection))
        self.norm1 = _norm(norm_cfg, in_channels)
        self.conv1 = _conv(conv_cfg, in_channels, width, 1)
        self.norm2 = _norm(norm_cfg, width)
        self.conv2 = _conv(conv_cfg, width, width, 3, stride)
        self.norm3 = _norm(norm_cfg, width)
        self.conv3 = _conv(conv_cfg, width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.with_cp and x.requires_grad:
            return torch.utils.checkpoint.checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm1(x))
        shortcut = x if self.downsample is None else self.downsample(activated)
        out = self.conv1(activated)
        out = self.conv2(F.relu(self.norm2(out)))
        out = self.conv3(F.relu(self.norm3(out)))
        return out + shortcut


@MODELS.register_module()
class ResNetV2(BaseModule):
    r"""Pre-activation ResNet with Weight Standardization and GN, ``type='mmws.ResNetV2'``.

    The network of BiT (`arXiv 1912.11370 <https://arxiv.org/abs/1912.11370>`_), with the names,
    parameters and outputs of timm's ``resnetv2_*_bit``, whose weights load as they are::

        backbone = dict(
            type='mmws.ResNetV2',
            depth=50,
            init_cfg=dict(type='Pretrained', checkpoint='resnetv2_50x1_bit.pth'),
        )

    timm's weights were trained on RGB images with ``mean = std = [127.5, 127.5, 127.5]``, so
    ``model.data_preprocessor`` must have these settings.

    The outputs are those of the stages at ``out_indices``, with strides 4, 8, 16 and 32 and
    256 w, 512 w, 1024 w and 2048 w channels, for ``w = width_factor``. The final norm and ReLU of
    the network are applied to the output of the last stage. The outputs of the other stages are
    sums of residuals without a norm, so a norm should follow the first convolution that takes them,
    as in an FPN with ``norm_cfg``.

    Args:
        depth: 50, 101 or 152.
        width_factor: Factor of the number of channels, 1 to 4 in BiT.
        in_channels: Channels of the images.
        out_indices: Stages whose outputs to return, 0 to 3, ascending. Stages after the last of
            them are not built.
        frozen_stages: Number of stages that do not train; the stem then does not train either.
            -1 freezes nothing, 0 the stem alone.
        with_cp: Compute blocks again in the backward pass, which saves memory.
        conv_cfg: Config of the convolutions; by default WS with BiT's variance and eps.
        norm_cfg: Config of the norms; by default GN with 32 groups.
        init_cfg: How to initialize; by default He initialization, ``fan_out``.

    Raises:
        ValueError: if ``depth``, ``out_indices`` or ``frozen_stages`` is out of these ranges.
    """

    def __init__(
        self,
        depth: int = 50,
        width_factor: int = 1,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        conv_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        if depth not in _BLOCKS:
            raise ValueError(f'mmws.ResNetV2 has depth {", ".join(map(str, _BLOCKS))}, not {depth}')
        out_indices = tuple(out_indices)
        if not out_indices or list(out_indices) != sorted({0, 1, 2, 3} & set(out_indices)):
            raise ValueError(
                f'mmws.ResNetV2: out_indices are of 0, 1, 2, 3, ascending, not {out_indices}'
            )
        num_stages = out_indices[-1] + 1
        if not -1 <= frozen_stages <= num_stages:
            raise ValueError(
                f'mmws.ResNetV2: frozen_stages is -1 to {num_stages}, not {frozen_stages}'
            )
        if init_cfg is None:
            init_cfg = dict(type='Kaiming', layer='Conv2d', mode='fan_out')
        super().__init__(init_cfg)
        self.depth = depth
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        conv_cfg = conv_cfg or dict(
            type='mmws.ConvWS', eps=1e-8, variance='biased', eps_inside=True
        )
        norm_cfg = norm_cfg or dict(type='mmws.GN', num_groups=32)

        channels = 64 * width_factor
        # TensorFlow, in which BiT was trained, pools zeros beyond the border; max pooling with
        # PyTorch's padding would ignore them.
        self.stem = nn.Sequential(
            OrderedDict(
                conv=_conv(conv_cfg, in_channels, channels, 7, 2),
                pad=nn.ConstantPad2d(1, 0.0),
                pool=nn.MaxPool2d(3, 2),
            )
        )
        self.stages = nn.ModuleList()
        for i, num_blocks in enumerate(_BLOCKS[depth][:num_stages]):
            out_channels = 256 * width_factor * 2**i
            blocks = nn.Sequential()
            for j in range(num_blocks):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(
                    PreActBottleneck(channels, out_channels, stride, conv_cfg, norm_cfg, with_cp)
                )
                channels = out_channels
            self.stages.append(nn.Sequential(OrderedDict(blocks=blocks)))
        # The final norm of the network belongs to the output of the last stage.
        self.norm = _norm(norm_cfg, channels) if num_stages == 4 else None
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the features at ``out_indices`` of images :math:`(N, C, H, W)`."""
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x if i < 3 or self.norm is None else F.relu(self.norm(x)))
        return tuple(outs)

    def train(self, mode: bool = True) -> ResNetV2:
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for part in (self.stem, *self.stages[: self.frozen_stages]):
            part.eval()
            part.requires_grad_(False)


def _conv(
    cfg: dict[str, Any], in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
) -> nn.Module:
    return build_conv_layer(
        cfg,
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=False,
    )


def _norm(cfg: dict[str, Any], channels: int) -> nn.Module:
    return build_norm_layer(cfg, channels)[1]
