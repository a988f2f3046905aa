r"""The operators for several layers as one Triton kernel each, a program for every filter.

The filters of one layer are the rows of a matrix. Those of several layers are joined into one
vector first; a table says where each filter begins and how long it is. Tables depend on shapes
alone, so that they are made once and may be part of a CUDA graph. Sums are computed in the dtype of
the rows; weights and their gradients may have another one.

Kept of a standardization are the mean and the variance of every filter, of a normalization the
norms. The formulas and their gradients are in :mod:`mmws.functional`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_MAX_BLOCK = 4096  # elements of a filter that a program holds at a time
_MAX_JOINED_BLOCK = 1024  # where most filters are shorter than the longest


@triton.jit
def _filter(starts, lengths, n, JOINED: tl.constexpr):
    """Return index, start and length of the filter of this program."""
    row = tl.program_id(0)
    if JOINED:
        return row, tl.load(starts + row), tl.load(lengths + row)
    return row, row.to(tl.int64) * n, n


@triton.jit
def _denominator(variance, eps, EPS_INSIDE: tl.constexpr):
    if EPS_INSIDE:
        return tl.sqrt(variance + eps)
    return tl.sqrt(variance) + eps


@triton.jit
def _divisor(n, UNBIASED: tl.constexpr):
    if UNBIASED:
        return tl.maximum(n - 1, 1)  # one element has no unbiased variance
    return n


@triton.jit
def _factor(variance, eps, scale, EPS_INSIDE: tl.constexpr):
    """Return what a centred filter is multiplied by, s / d; 0 where d is 0."""
    denominator = _denominator(variance, eps, EPS_INSIDE)
    return tl.where(denominator > 0, scale / tl.where(denominator > 0, denominator, 1), 0)


@triton.jit
def _standardize(
    rows, gains, shifts, starts, lengths, out, means, variances, n, eps, scale,
    UNBIASED: tl.constexpr, EPS_INSIDE: tl.constexpr, HAS_GAIN: tl.constexpr,
    HAS_SHIFT: tl.constexpr, JOINED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, start, length = _filter(starts, lengths, n, JOINED)
    total = tl.zeros([BLOCK], dtype=rows.dtype.element_ty)
    for first in range(0, length, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        total += tl.load(rows + start + columns, mask=columns < length, other=0)
    mean = tl.sum(total) / length
    # Deviations from the mean in a second pass: a difference of sums would cancel.
    total = tl.zeros([BLOCK], dtype=rows.dtype.element_ty)
    for first in range(0, length, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < length
        centred = tl.load(rows + start + columns, mask=inside, other=0) - mean
        total += tl.where(inside, centred * centred, 0)
    variance = tl.sum(total) / _divisor(length, UNBIASED)
    tl.store(means + row, mean)
    tl.store(variances + row, variance)
    factor = _factor(variance, eps, scale, EPS_INSIDE)
    if HAS_GAIN:
        factor *= tl.load(gains + row)
    offset = mean * 0
    if HAS_SHIFT:
        offset += tl.load(shifts + row)
    for first in range(0, length, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < length
        values = tl.load(rows + start + columns, mask=inside, other=0)
        made = (values - mean) * factor + offset
        tl.store(out + start + columns, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _standardize_backward(
    grads, rows, gains, starts, lengths, means, variances, grad_rows, grad_gains, grad_shifts,
    n, eps, scale,
    UNBIASED: tl.constexpr, EPS_INSIDE: tl.constexpr, HAS_GAIN: tl.constexpr,
    NEEDS_ROWS: tl.constexpr, NEEDS_GAIN: tl.constexpr, NEEDS_SHIFT: tl.constexpr,
    JOINED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, start, length = _filter(starts, lengths, n, JOINED)
    mean = tl.load(means + row)
    variance = tl.load(variances + row)
    sums = tl.zeros([BLOCK], dtype=mean.dtype)
    products = tl.zeros([BLOCK], dtype=mean.dtype)
    for first in range(0, length, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < length
        g = tl.load(grads + start + columns, mask=inside, other=0).to(mean.dtype)
        sums += g
        # The gradient is 0 beyond the end of the filter, so that what is centred does not count.
        products += g * (tl.load(rows + start + columns, mask=inside, other=0) - mean)
    total = tl.sum(sums)
    product = tl.sum(products)
    factor = _factor(variance, eps, scale, EPS_INSIDE)
    if NEEDS_GAIN:
        tl.store(grad_gains + row, product * factor)
    if NEEDS_SHIFT:
        tl.store(grad_shifts + row, total)
    if NEEDS_ROWS:
        if HAS_GAIN:
            factor *= tl.load(gains + row)
        quotient = _denominator(variance, eps, EPS_INSIDE)
        quotient *= quotient if EPS_INSIDE else tl.sqrt(variance)
        quotient *= _divisor(length, UNBIASED)
        slope = tl.where(variance > 0, product / tl.where(variance > 0, quotient, 1), 0)
        for first in range(0, length, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            inside = columns < length
            centred = tl.load(rows + start + columns, mask=inside, other=0) - mean
            g = tl.load(grads + start + columns, mask=inside, other=0).to(mean.dtype)
            result = factor * (g - total / length - centred * slope)
            tl.store(grad_rows + start + columns, result, mask=inside)


@triton.jit
def _reciprocal(norm):
    """Return 1 / norm, 0 for a filter of zeros."""
    return tl.where(norm > 0, 1 / tl.where(norm > 0, norm, 1), 0)


@triton.jit
def _normalize(
    rows, gains, starts, lengths, out, norms, n, JOINED: tl.constexpr, BLOCK: tl.constexpr
):
    row, start, length = _filter(starts, lengths, n, JOINED)
    total = tl.zeros([BLOCK], dtype=rows.dtype.element_ty)
    for first in range(0, length, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        values = tl.load(rows + start + columns, mask=columns < length, other=0)
        total += values * values
    norm = tl.sqrt(tl.sum(total))
    tl.store(norms + row, norm)
    factor = tl.load(gains + row) * _reciprocal(norm)
    for first in range(0, length, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        made = tl.load(rows + start + columns, mask=columns < length, other=0) * factor
        tl.store(out + start + columns, made.to(out.dtype.element_ty), mask=columns < length)


@triton.jit
def _normalize_backward(
    grads, rows, gains, starts, lengths, norms, grad_rows, grad_gains, n,
    NEEDS_ROWS: tl.constexpr, NEEDS_GAIN: tl.constexpr, JOINED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, start, length = _filter(starts, lengths, n, JOINED)
    reciprocal = _reciprocal(tl.load(norms + row))
    products = tl.zeros([BLOCK], dtype=reciprocal.dtype)
    for first in range(0, length, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < length
        g = tl.load(grads + start + columns, mask=inside, other=0).to(reciprocal.dtype)
        products += g * tl.load(rows + start + columns, mask=inside, other=0)
    along = tl.sum(products) * reciprocal  # the gradient along the direction of the filter
    if NEEDS_GAIN:
        tl.store(grad_gains + row, along)
    if NEEDS_ROWS:
        factor = tl.load(gains + row) * reciprocal
        for first in range(0, length, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            inside = columns < length
            direction = tl.load(rows + start + columns, mask=inside, other=0) * reciprocal
            g = tl.load(grads + start + columns, mask=inside, other=0).to(reciprocal.dtype)
            result = factor * (g - direction * along)
            tl.store(grad_rows + start + columns, result, mask=inside)


def standardize(
    rows: list[Tensor], gains: list[Tensor], shifts: list[Tensor],
    eps: float, unbiased: bool, eps_inside: bool, scale: float, dtype: torch.dtype,
) -> list[Tensor]:  # fmt: skip
    """Standardize all filters; see :mod:`mmws.kernels.operators`."""
    joined = _join(rows)
    out = torch.empty_like(joined, dtype=dtype)
    mean, variance = (rows[0].new_empty(_count(rows)) for _ in range(2))
    _launch(
        _standardize, rows, joined, _join_if_any(gains), _join_if_any(shifts), *_table(rows), out,
        mean, variance, _length(rows), eps, scale, unbiased, eps_inside, bool(gains), bool(shifts),
    )  # fmt: skip
    return [*_split(out, rows), mean, variance]


def standardize_backward(
    grads: list[Tensor], rows: list[Tensor], gains: list[Tensor], kept: list[Tensor],
    eps: float, unbiased: bool, eps_inside: bool, scale: float, mask: list[bool],
) -> list[Tensor]:  # fmt: skip
    """Gradients of a standardization; see :mod:`mmws.kernels.operators`."""
    joined = _join(rows)
    made = _outputs(joined, rows, mask)
    _launch(
        _standardize_backward, rows, _join(grads), joined, _join_if_any(gains), *_table(rows),
        *kept, *made, _length(rows), eps, scale, unbiased, eps_inside, bool(gains), *mask,
    )  # fmt: skip
    return _split_gradients(made, rows)


def normalize(rows: list[Tensor], gains: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Give every filter the length of its gain; see :mod:`mmws.kernels.operators`."""
    joined = _join(rows)
    out, norm = torch.empty_like(joined, dtype=dtype), rows[0].new_empty(_count(rows))
    _launch(_normalize, rows, joined, _join(gains), *_table(rows), out, norm, _length(rows))
    return [*_split(out, rows), norm]


def normalize_backward(
    grads: list[Tensor], rows: list[Tensor], gains: list[Tensor], kept: list[Tensor],
    mask: list[bool],
) -> list[Tensor]:  # fmt: skip
    """Gradients of a normalization; see :mod:`mmws.kernels.operators`."""
    joined = _join(rows)
    made = _outputs(joined, rows, mask)
    _launch(
        _normalize_backward, rows, _join(grads), joined, _join(gains), *_table(rows), *kept, *made,
        _length(rows), *mask,
    )  # fmt: skip
    return _split_gradients(made, rows)


def _join(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat([t.view(-1) for t in tensors])


def _join_if_any(tensors: Sequence[Tensor]) -> Tensor | None:
    return _join(tensors) if tensors else None


def _split(joined: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = joined.view(-1).split([t.numel() for t in like])
    return [part.view(t.shape) for part, t in zip(parts, like)]


def _outputs(joined: Tensor, rows: Sequence[Tensor], mask: Sequence[bool]) -> list[Tensor | None]:
    shapes = [joined.shape, *[(_count(rows),)] * (len(mask) - 1)]
    return [joined.new_empty(shape) if asked else None for shape, asked in zip(shapes, mask)]


def _split_gradients(made: Sequence[Tensor | None], rows: Sequence[Tensor]) -> list[Tensor]:
    grads = [] if made[0] is None else _split(made[0], rows)
    for vector in made[1:]:
        if vector is not None:
            grads += vector.split([len(weight) for weight in rows])
    return grads


def _count(rows: Sequence[Tensor]) -> int:
    return sum(len(weight) for weight in rows)


def _length(rows: Sequence[Tensor]) -> int:
    """Return the length of the longest filter."""
    return max(weight.numel() // max(len(weight), 1) for weight in rows)


def _table(rows: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Return where each filter begins, and how long it is; None for the rows of one layer."""
    if len(rows) == 1:
        return None, None
    shapes = tuple((len(weight), weight.numel() // len(weight)) for weight in rows)
    return _make_table(shapes, rows[0].device)


@functools.lru_cache(maxsize=256)
def _make_table(shapes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([n for count, n in shapes for _ in range(count)], device='cpu')
    starts = lengths.cumsum(0) - lengths
    with torch.inference_mode(False):
        return starts.to(device), lengths.to(device, torch.int32)


def _launch(
    kernel: triton.JITFunction, rows: Sequence[Tensor], *args: Tensor | float | None
) -> None:
    if any(weight.numel() == 0 for weight in rows):
        return
    joined = len(rows) > 1
    longest = triton.next_power_of_2(_length(rows))
    block = min(longest, _MAX_JOINED_BLOCK if joined else _MAX_BLOCK)
    # Triton launches on the current device, which need not be that of the rows.
    with torch.cuda.device_of(rows[0]):
        kernel[(_count(rows),)](*args, joined, BLOCK=block, num_warps=8 if block >= 2048 else 4)
