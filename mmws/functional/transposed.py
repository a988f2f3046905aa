"""Weight functions of transposed convolutions, whose weight is laid out otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .weight_function import Gradients, WeightFunction


def swap_channels(weight: Tensor, groups: int) -> Tensor:
    """:math:`(I, O / G, ...)` to :math:`(O, I / G, ...)` and back."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True)
class Transposed(WeightFunction):
    r"""``function`` for the weight of a transposed convolution.

    That weight is :math:`(I, O / G, \ldots)` for ``I`` input channels, ``O`` output channels and
    ``G`` groups. The filter of an output channel runs over the input channels of its group, so it
    is not a row of the weight.

    Args:
        function: A function of weights :math:`(O, \ldots)`.
        groups: ``G``.
    """

    function: WeightFunction
    groups: int = 1

    def __call__(self, weight: Tensor, *others: Tensor | None) -> Tensor:
        return self._swap(self.function(self._swap(weight), *others))

    def filters(self, weight: Tensor) -> Tensor:
        return self.function.filters(self._swap(weight))

    def evaluate(self, weight: Tensor, *others: Tensor | None) -> tuple[Tensor, Sequence[Tensor]]:
        made, kept = self.function.evaluate(self._swap(weight), *others)
        return self._swap(made).contiguous(memory_format=_memory_format(weight)), kept

    def gradients(
        self, grad: Tensor, needs: Sequence[bool], kept: Sequence[Tensor], weight: Tensor,
        *others: Tensor | None,
    ) -> Gradients:  # fmt: skip
        grad_weight, *grads = self.function.gradients(
            self._swap(grad), needs, kept, self._swap(weight), *others
        )
        return None if grad_weight is None else self._swap(grad_weight), *grads

    def _swap(self, weight: Tensor) -> Tensor:
        return swap_channels(weight, self.groups)


def _memory_format(weight: Tensor) -> torch.memory_format:
    """Return the memory format that a weight is stored in."""
    if weight.is_contiguous():
        return torch.contiguous_format
    for dims, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if weight.dim() == dims and weight.is_contiguous(memory_format=memory_format):
            return memory_format
    return torch.contiguous_format
