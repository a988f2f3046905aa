r"""Filters as the rows of a matrix, which the kernels take.

Shapes: a filter is the part of a weight that makes one output channel. A weight is
:math:`(O, \ldots)`, ``O`` filters of ``n`` elements each; its rows are the same numbers as
:math:`(O, n)`. A per-filter vector has ``O`` elements.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .weight_function import Gradients, Stored

_EXACT = (torch.float32, torch.float64)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return half precision as float32, anything else as it is."""
    if tensor.dtype == torch.float16 or tensor.dtype == torch.bfloat16:
        return tensor.float()
    return tensor


def to_rows(weight: Tensor) -> Tensor:
    """Return the filters contiguous and in float32 at least, the elements in their memory order.

    A filter's statistics do not depend on the order of its elements; following the memory copies
    neither contiguous weights nor ``channels_last`` ones.
    """
    if weight.is_contiguous():
        return weight if weight.dtype in _EXACT else at_least_float32(weight)
    return at_least_float32(weight.permute(0, *_memory_order(weight))).contiguous()


def grad_to_rows(grad: Tensor, weight: Tensor) -> Tensor:
    """Return a gradient with its elements in the order of ``to_rows(weight)``, in its own dtype."""
    if weight.is_contiguous():
        return grad.contiguous()
    return grad.permute(0, *_memory_order(weight)).contiguous()


def from_rows(rows: Tensor, weight: Tensor) -> Tensor:
    """Undo :func:`to_rows` but for the dtype: the shape and layout of ``weight``."""
    if weight.is_contiguous():
        return rows
    order = [0, *_memory_order(weight)]
    return rows.permute(sorted(range(weight.dim()), key=order.__getitem__))


def to_vector(tensor: Tensor, rows: Tensor) -> Tensor:
    """Return a per-filter tensor of any shape as :math:`(O)`, in the dtype of ``rows``."""
    return tensor.reshape(-1).to(rows.dtype).contiguous()


def _memory_order(weight: Tensor) -> list[int]:
    return sorted(range(1, weight.dim()), key=weight.stride, reverse=True)


def is_plain(stored: Stored) -> bool:
    """Whether a layer stores nothing but a weight, which is its rows already."""
    weight, *others = stored
    return weight.is_contiguous() and weight.dtype in _EXACT and others.count(None) == len(others)


def kernel_arguments(stored: Sequence[Stored]) -> list[list[Tensor]]:
    """Return rows, gains and shifts of many layers; empty lists for what the layers lack."""
    lists: list[list[Tensor]] = [[to_rows(tensors[0]) for tensors in stored], [], []]
    for name in range(1, len(stored[0])):
        if stored[0][name] is not None:
            vectors = [tensors[name] for tensors in stored]
            lists[name] = [to_vector(t, r) for t, r in zip(vectors, lists[0]) if t is not None]
    return lists


def kernel_gradients(
    made: Sequence[Tensor], needs: Sequence[bool], stored: Sequence[Stored]
) -> list[Gradients]:
    """Sort by layer what a backward kernel made: gradients of all rows, of all gains, of shifts."""
    columns: list[Sequence[Tensor | None]] = []
    remaining, count = iter(made), len(stored)
    for name, need in enumerate(needs):
        if not need:
            columns.append([None] * count)
        elif name == 0:
            weights = [tensors[0] for tensors in stored]
            grads = [from_rows(next(remaining), weight) for weight in weights]
            half = weights[0].dtype not in _EXACT
            columns.append([g.to(weights[0].dtype) for g in grads] if half else grads)
        else:
            vectors = [tensors[name] for tensors in stored]
            columns.append(
                [next(remaining).to(t.dtype).view(t.shape) for t in vectors if t is not None]
            )
    return [*zip(*columns)]
