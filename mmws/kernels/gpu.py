r"""The operators as one Triton kernel each: a program for every row, sums in the rows' own dtype.

Kept are the mean and the variance of every row. With :math:`c` the centred
row and :math:`g` the gradient, the gradient with respect to a row is

.. math:: \frac{\gamma_o s}{d_o}\left[g - \bar g - c\,\frac{\sum g\,c}{m\,q_o}\right], \qquad
    q_o = \sigma_o d_o \text{ or } d_o^2

(see :class:`mmws.functional.Standardize`); in a row without variance the last term is 0.
"""

from __future__ import annotations

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
    grad, rows, gain, means, variances, grad_rows, grad_gain, grad_shift,
    n, eps, divisor, scale,
    EPS_INSIDE: tl.constexpr, HAS_GAIN: tl.constexpr,
    NEEDS_ROWS: tl.constexpr, NEEDS_GAIN: tl.constexpr, NEEDS_SHIFT: tl.constexpr,
    BLOCK: tl.constexpr,
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
    if NEEDS_ROWS:
        factor = _factor(gain, row, variance, eps, scale, EPS_INSIDE, HAS_GAIN)
        quotient = _denominator(variance, eps, EPS_INSIDE)
        quotient *= quotient if EPS_INSIDE else tl.sqrt(variance)
        quotient *= divisor
        slope = tl.where(variance > 0, product / tl.where(variance > 0, quotient, 1), 0)
        for first in range(0, n, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            inside = columns < n
            g = tl.load(grad + start + columns, mask=inside, other=0)
            centred = tl.load(rows + start + columns, mask=inside, other=0) - mean
            result = factor * (g - total / n - centred * slope)
            tl.store(grad_rows + start + columns, result, mask=inside)


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
        _standardize, rows, rows, gain, shift, out, mean, variance, rows.shape[1],
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
        _restandardize, rows, rows, gain, shift, out, *kept, rows.shape[1],
        eps, divisor, scale, eps_inside, gain is not None, shift is not None,
    )  # fmt: skip
    return out


def standardize_backward(
    grad: Tensor,
    rows: Tensor,
    gain: Tensor | None,
    kept: list[Tensor],
    eps: float,
    eps_inside: bool,
    divisor: int,
    scale: float,
    mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to ``rows``, gain and shift; see :mod:`mmws.kernels.operators`."""
    grad = grad.contiguous()
    absent = rows.new_empty(0)
    grad_rows = torch.empty_like(rows) if mask[0] else absent
    grad_gain, grad_shift = (v if m else absent for v, m in zip(_vectors(rows, 2), mask[1:]))
    _launch(
        _backward, rows, grad, rows, gain, *kept, grad_rows, grad_gain, grad_shift,
        rows.shape[1], eps, divisor, scale, eps_inside, gain is not None, *mask,
    )  # fmt: skip
    return grad_rows, grad_gain, grad_shift


def _vectors(rows: Tensor, number: int) -> tuple[Tensor, ...]:
    return tuple(rows.new_empty(rows.shape[0]) for _ in range(number))


def _launch(kernel: triton.JITFunction, rows: Tensor, *args: Tensor | float | None) -> None:
    o, n = rows.shape
    if o == 0 or n == 0:
        return
    block = min(triton.next_power_of_2(n), _MAX_BLOCK)
    # Triton launches on the current device, which need not be that of the rows.
    with torch.cuda.device_of(rows):
        kernel[(o,)](*args, BLOCK=block, num_warps=8 if block >= 2048 else 4)
