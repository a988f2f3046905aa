r"""The operators as one Triton kernel each: a program for every row, sums in the rows' own dtype.

Kept are the mean and the variance of every row. With :math:`c` the centred
row and :math:`g` the gradient, the gradient with respect to a row is

.. math:: \frac{\gamma_o s}{d_o}\left[g - \bar g - c\,\frac{\sum g\,c}{m\,q_o}\right], \qquad
    q_o = \sigma_o d_o \text{ or } d_o^2

(see :class:`mmws.functional.Standardize`); in a row without variance the last term is 0. With
:math:`v` the direction of a row, that of a normalization is
:math:`\frac{\gamma_o}{\lVert V_o \rVert}[g - v \sum g\,v]`; kept are the norms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_MAX_BLOCK = 4096  # elements of a row that a program holds at a time


@triton.jit
def _denominator(variance, eps, EPS_INSIDE: tl.constexpr):
    if EPS_INSIDE:
        return tl.sqrt(variance + eps)
    return tl.sqrt(variance) + eps


@triton.jit
def _factor(gain, row, variance, eps, scale, EPS_INSIDE: tl.constexpr, HAS_GAIN: tl.constexpr):
    """What a centred row is multiplied by, gamma s / d; 0 where d is 0."""
    denominator = _denominator(variance, eps, EPS_INSIDE)
    factor = tl.where(denominator > 0, scale / tl.where(denominator > 0, denominator, 1), 0)
    if HAS_GAIN:
        factor *= tl.load(gain + row)
    return factor


@triton.jit
def _write(rows, out, shift, row, n, mean, factor, HAS_SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    start = row.to(tl.int64) * n
    offset = mean * 0
    if HAS_SHIFT:
        offset += tl.load(shift + row)
    for first in range(0, n, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < n
        values = tl.load(rows + start + columns, mask=inside, other=0)
        tl.store(out + start + columns, (values - mean) * factor + offset, mask=inside)


@triton.jit
def _standardize(
    rows, gain, shift, out, means, variances, n, eps, divisor, scale,
    EPS_INSIDE: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_SHIFT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    start = row.to(tl.int64) * n
    total = tl.zeros([BLOCK], dtype=out.dtype.element_ty)
    for first in range(0, n, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        total += tl.load(rows + start + columns, mask=columns < n, other=0)
    mean = tl.sum(total) / n
    # Deviations from the mean in a second pass: a difference of sums would cancel.
    total = tl.zeros([BLOCK], dtype=out.dtype.element_ty)
    for first in range(0, n, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < n
        centred = tl.load(rows + start + columns, mask=inside, other=0) - mean
        total += tl.where(inside, centred * centred, 0)
    variance = tl.sum(total) / divisor
    tl.store(means + row, mean)
    tl.store(variances + row, variance)
    factor = _factor(gain, row, variance, eps, scale, EPS_INSIDE, HAS_GAIN)
    _write(rows, out, shift, row, n, mean, factor, HAS_SHIFT, BLOCK)


@triton.jit
def _restandardize(
    rows, gain, shift, out, means, variances, n, eps, divisor, scale,
    EPS_INSIDE: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_SHIFT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    variance = tl.load(variances + row)
    factor = _factor(gain, row, variance, eps, scale, EPS_INSIDE, HAS_GAIN)
    _write(rows, out, shift, row, n, tl.load(means + row), factor, HAS_SHIFT, BLOCK)


@triton.jit
def _backward(
    grad, rows, gain, shift, means, variances, grad_rows, grad_gain, grad_shift, out,
    n, eps, divisor, scale,
    EPS_INSIDE: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_SHIFT: tl.constexpr,
    NEEDS_ROWS: tl.constexpr, NEEDS_GAIN: tl.constexpr, NEEDS_SHIFT: tl.constexpr,
    NEEDS_OUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    start = row.to(tl.int64) * n
    mean = tl.load(means + row)
    variance = tl.load(variances + row)
    sums = tl.zeros([BLOCK], dtype=mean.dtype)
    products = tl.zeros([BLOCK], dtype=mean.dtype)
    for first in range(0, n, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < n
        g = tl.load(grad + start + columns, mask=inside, other=0)
        sums += g
        # Beyond the end of the row the gradient is 0, so what is centred there does not count.
        products += g * (tl.load(rows + start + columns, mask=inside, other=0) - mean)
    total = tl.sum(sums)
    product = tl.sum(products)
    if NEEDS_GAIN:
        unit = _factor(gain, row, variance, eps, scale, EPS_INSIDE, False)
        tl.store(grad_gain + row, product * unit)
    if NEEDS_SHIFT:
        tl.store(grad_shift + row, total)
    if NEEDS_ROWS or NEEDS_OUT:
        factor = _factor(gain, row, variance, eps, scale, EPS_INSIDE, HAS_GAIN)
        offset = mean * 0
        if HAS_SHIFT:
            offset += tl.load(shift + row)
        quotient = _denominator(variance, eps, EPS_INSIDE)
        quotient *= quotient if EPS_INSIDE else tl.sqrt(variance)
        quotient *= divisor
        slope = tl.where(variance > 0, product / tl.where(variance > 0, quotient, 1), 0)
        for first in range(0, n, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            inside = columns < n
            centred = tl.load(rows + start + columns, mask=inside, other=0) - mean
            if NEEDS_ROWS:
                g = tl.load(grad + start + columns, mask=inside, other=0)
                result = factor * (g - total / n - centred * slope)
                tl.store(grad_rows + start + columns, result, mask=inside)
            if NEEDS_OUT:
                tl.store(out + start + columns, centred * factor + offset, mask=inside)


@triton.jit
def _reciprocal(norm):
    """1 / norm, 0 for a row of zeros."""
    return tl.where(norm > 0, 1 / tl.where(norm > 0, norm, 1), 0)


@triton.jit
def _scale_row(rows, out, row, n, factor, BLOCK: tl.constexpr):
    start = row.to(tl.int64) * n
    for first in range(0, n, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        values = tl.load(rows + start + columns, mask=columns < n, other=0)
        tl.store(out + start + columns, values * factor, mask=columns < n)


@triton.jit
def _normalize(rows, gain, out, norms, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    start = row.to(tl.int64) * n
    total = tl.zeros([BLOCK], dtype=out.dtype.element_ty)
    for first in range(0, n, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        values = tl.load(rows + start + columns, mask=columns < n, other=0)
        total += values * values
    norm = tl.sqrt(tl.sum(total))
    tl.store(norms + row, norm)
    _scale_row(rows, out, row, n, tl.load(gain + row) * _reciprocal(norm), BLOCK)


@triton.jit
def _renormalize(rows, gain, out, norms, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    factor = tl.load(gain + row) * _reciprocal(tl.load(norms + row))
    _scale_row(rows, out, row, n, factor, BLOCK)


@triton.jit
def _normalize_backward(
    grad, rows, gain, norms, grad_rows, grad_gain, out, n,
    NEEDS_ROWS: tl.constexpr, NEEDS_GAIN: tl.constexpr, NEEDS_OUT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    start = row.to(tl.int64) * n
    reciprocal = _reciprocal(tl.load(norms + row))
    products = tl.zeros([BLOCK], dtype=reciprocal.dtype)
    for first in range(0, n, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        g = tl.load(grad + start + columns, mask=columns < n, other=0)
        products += g * tl.load(rows + start + columns, mask=columns < n, other=0)
    along = tl.sum(products) * reciprocal  # the gradient along the direction of the row
    if NEEDS_GAIN:
        tl.store(grad_gain + row, along)
    if NEEDS_ROWS or NEEDS_OUT:
        gain_of_row = tl.load(gain + row)
        for first in range(0, n, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            direction = tl.load(rows + start + columns, mask=columns < n, other=0) * reciprocal
            if NEEDS_ROWS:
                g = tl.load(grad + start + columns, mask=columns < n, other=0)
                result = gain_of_row * reciprocal * (g - direction * along)
                tl.store(grad_rows + start + columns, result, mask=columns < n)
            if NEEDS_OUT:
                tl.store(out + start + columns, direction * gain_of_row, mask=columns < n)


def standardize(
    rows: Tensor,
    gain: Tensor | None,
    shift: Tensor | None,
    eps: float,
    eps_inside: bool,
    divisor: int,
    scale: float,
) -> tuple[Tensor, list[Tensor]]:
    """Standardize every row; see :mod:`mmws.kernels.operators`."""
    out, mean, variance = torch.empty_like(rows), *_vectors(rows, 2)
    _launch(
        _standardize, rows, rows, gain, shift, out, mean, variance, _length(rows),
        eps, divisor, scale, eps_inside, gain is not None, shift is not None,
    )  # fmt: skip
    return out, [mean, variance]


def restandardize(
    rows: Tensor,
    gain: Tensor | None,
    shift: Tensor | None,
    kept: list[Tensor],
    eps: float,
    eps_inside: bool,
    divisor: int,
    scale: float,
) -> Tensor:
    """Standardize every row once more; see :mod:`mmws.kernels.operators`."""
    out = torch.empty_like(rows)
    _launch(
        _restandardize, rows, rows, gain, shift, out, *kept, _length(rows),
        eps, divisor, scale, eps_inside, gain is not None, shift is not None,
    )  # fmt: skip
    return out


def standardize_backward(
    grad: Tensor,
    rows: Tensor,
    gain: Tensor | None,
    shift: Tensor | None,
    kept: list[Tensor],
    eps: float,
    eps_inside: bool,
    divisor: int,
    scale: float,
    mask: list[bool],
) -> list[Tensor]:
    """Gradients, and the rows once more; see :mod:`mmws.kernels.operators`."""
    shapes = rows.shape, rows.shape[:1], rows.shape[:1], rows.shape
    made = _asked_for(rows, shapes, mask)
    _launch(
        _backward, rows, grad, rows, gain, shift, *kept, *made, _length(rows),
        eps, divisor, scale, eps_inside, gain is not None, shift is not None, *mask,
    )  # fmt: skip
    return [tensor for tensor in made if tensor is not None]


def normalize(rows: Tensor, gain: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Give every row the length of its gain; see :mod:`mmws.kernels.operators`."""
    out, (norm,) = torch.empty_like(rows), _vectors(rows, 1)
    _launch(_normalize, rows, rows, gain, out, norm, _length(rows))
    return out, [norm]


def renormalize(rows: Tensor, gain: Tensor, kept: list[Tensor]) -> Tensor:
    """Give every row its length once more; see :mod:`mmws.kernels.operators`."""
    out = torch.empty_like(rows)
    _launch(_renormalize, rows, rows, gain, out, *kept, _length(rows))
    return out


def normalize_backward(
    grad: Tensor, rows: Tensor, gain: Tensor, kept: list[Tensor], mask: list[bool]
) -> list[Tensor]:
    """Gradients, and the rows once more; see :mod:`mmws.kernels.operators`."""
    made = _asked_for(rows, (rows.shape, rows.shape[:1], rows.shape), mask)
    _launch(
        _normalize_backward, rows, grad, rows, gain, *kept, *made, _length(rows), *mask,
    )  # fmt: skip
    return [tensor for tensor in made if tensor is not None]


def _asked_for(
    rows: Tensor, shapes: Sequence[torch.Size], mask: Sequence[bool]
) -> list[Tensor | None]:
    return [rows.new_empty(shape) if asked else None for shape, asked in zip(shapes, mask)]


def _length(rows: Tensor) -> int:
    return rows.numel() // max(rows.shape[0], 1)


def _vectors(rows: Tensor, number: int) -> tuple[Tensor, ...]:
    return tuple(rows.new_empty(rows.shape[0]) for _ in range(number))


def _launch(kernel: triton.JITFunction, rows: Tensor, *args: Tensor | float | None) -> None:
    if rows.numel() == 0:
        return
    block = min(triton.next_power_of_2(_length(rows)), _MAX_BLOCK)
    # Triton launches on the current device, which need not be that of the rows.
    with torch.cuda.device_of(rows):
        kernel[rows.shape[:1]](*args, BLOCK=block, num_warps=8 if block >= 2048 else 4)
