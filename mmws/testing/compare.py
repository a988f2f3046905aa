"""Compare the outputs of two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor


def tensors_of(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors of a nested output in a fixed order, including those of data samples."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, BaseDataElement):
        yield from tensors_of(dict(sorted(outputs.items())))
    elif isinstance(outputs, Mapping):
        yield from tensors_of(list(outputs.values()))
    elif isinstance(outputs, (list, tuple)):
        for output in outputs:
            yield from tensors_of(output)


def max_difference(first: Any, second: Any) -> float:
    """Return the largest difference between corresponding tensors of two outputs.

    The difference of two tensors is the largest one of their elements. If the largest magnitude in
    the tensor of ``second`` exceeds 1, the difference is divided by that magnitude.

    Returns:
        The difference; infinity if numbers or shapes of tensors differ, or if NaN and infinite
        elements are not the same.
    """
    pairs = list(tensors_of(first)), list(tensors_of(second))
    if [t.shape for t in pairs[0]] != [t.shape for t in pairs[1]]:
        return float('inf')
    return max((_difference(a, b) for a, b in zip(*pairs) if a.numel()), default=0.0)


def _difference(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    finite = b.isfinite()
    if not torch.equal(finite, a.isfinite()) or not torch.equal(
        a[~finite].nan_to_num(), b[~finite].nan_to_num()
    ):
        return float('inf')
    a, b = a[finite], b[finite]
    if not len(b):
        return 0.0
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()
