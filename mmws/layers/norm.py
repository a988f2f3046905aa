import logging
from functools import cache

from torch import nn

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
        **kwargs: ``device`` and ``dtype`` of the parameters.

    Raises:
        ValueError: if ``num_groups`` or ``num_channels`` is below 1.
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int = 32,
        eps: float = 1e-5,
        affine: bool = True,
        **kwargs,
    ) -> None:
        if num_groups < 1 or num_channels < 1:
            raise ValueError(
                'mmws.GN needs num_groups >= 1 and num_channels >= 1, '
                f'got num_groups={num_groups}, num_channels={num_channels}'
            )
        used = largest_group_count(num_channels, num_groups)
        if used != num_groups:
            _tell_group_count(num_channels, num_groups, used)
        super().__init__(used, num_channels, eps=eps, affine=affine, **kwargs)
