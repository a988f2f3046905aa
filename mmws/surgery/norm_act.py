"""Batch-Channel Normalization with the activation that timm's batch normalizations have inside."""

from __future__ import annotations

from torch import Tensor, nn

from mmws.layers import BCN


class BCNAct(BCN):
    """:class:`mmws.BCN`, then the children ``drop`` and ``act`` of timm's ``BatchNormAct2d``.

    Only a conversion makes this layer: the children are those of the layer before.
    """

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))
