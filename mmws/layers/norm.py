from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from mmws.compat.torch_private import is_tracing
from mmws.registry import MODELS

LOGGER = logging.getLogger(__name__)


def largest_group_count(num_channels: int, num_groups: int = 32) -> int:
    """Return the largest divisor of ``num_channels`` that does not exceed ``num_groups``."""
    return next(g for g in range(min(num_groups, num_channels), 0, -1) if num_channels % g == 0)


@cache  # a model has dozens of such layers; one line tells it
def _tell_group_count(num_channels: int, num_groups: int, used: int) -> None:
    LOGGER.warning(
        'mmws.GN: %d groups do not divide %d channels; using %d groups',
        num_groups,
        num_channels,
        used,
    )


@cache
def _tell_lone_values(num_channels: int) -> None:
    LOGGER.warning(
        'mmws.GN: %d groups of %d channels at one position are single values, of which nothing '
        'but the offset remains: take fewer groups',
        num_channels,
        num_channels,
    )


@MODELS.register_module('GN')
class GroupNorm(nn.GroupNorm):
    r"""Group Normalization that fits any channel count, ``type='mmws.GN'`` in a config.

    ``nn.GroupNorm`` (`arXiv 1803.08494 <https://arxiv.org/abs/1803.08494>`_) with the arguments
    in the order in which MMCV's ``build_norm_layer`` gives them. Where ``num_groups`` does not
    divide the channels, the largest divisor that does not exceed it is used, and told once in
    the log.

    Args:
        num_channels: ``C`` of an input :math:`(N, C, *)`.
        num_groups: Groups wanted, 32 as in the paper.
        eps: Added to the variance, inside the root.
        affine: Learn a gain and an offset for each channel.
        channels_per_group: Channels of a group, instead of ``num_groups``: as many groups as that
            makes of ``num_channels``, by the rule above where it does not divide them.
        **kwargs: ``device`` and ``dtype`` of the parameters.

    Raises:
        ValueError: if ``num_groups``, ``num_channels`` or ``channels_per_group`` is below 1.
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        eps: float = 1e-5,
        affine: bool = True,
        channels_per_group: int | None = None,
        **kwargs: Any,
    ) -> None:
        if num_groups < 1 or num_channels < 1:
            raise ValueError(
                'mmws.GN needs num_groups >= 1 and num_channels >= 1, '
                f'got num_groups={num_groups}, num_channels={num_channels}'
            )
        if channels_per_group is not None:
            if channels_per_group < 1:
                raise ValueError(f'channels_per_group must be at least 1, got {channels_per_group}')
            num_groups = max(num_channels // channels_per_group, 1)
        used = largest_group_count(num_channels, num_groups)
        if used != num_groups:
            _tell_group_count(num_channels, num_groups, used)
        super().__init__(used, num_channels, eps=eps, affine=affine, **kwargs)

    def forward(self, input: Tensor) -> Tensor:
        # Not F.group_norm, which refuses one value a group in a batch of one and lets it pass in a
        # larger batch. Its deviation from its own mean is 0, so that only the offset remains.
        if not torch.jit.is_scripting():
            self._warn_of_lone_values(input)
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def _warn_of_lone_values(self, input: Tensor) -> None:
        if self.num_groups < self.num_channels or not isinstance(input, Tensor) or is_tracing():
            return
        if input.shape[2:].numel() == 1:
            _tell_lone_values(self.num_channels)
