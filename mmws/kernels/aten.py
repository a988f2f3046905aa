r"""The operators by PyTorch's own kernels, for any device.

Group normalization with every row a group makes a standardized filter in one call, but with the
biased variance and with eps inside the root; the gradient is that of batch normalization over one
row, :math:`\gamma' k [g - \bar g - c\, k^2 \sum g\,c / n]` with :math:`c` the centred row. What
the two kernels cannot express goes into their per-row factors:

- ``unbias`` :math:`= \sqrt{n / \mathrm{divisor}}`, and :math:`\sigma_o` is ``unbias`` times the
  biased deviation;
- for eps outside the root, :math:`f_o = s / d_o` is ``scale / unbias`` times
  :math:`1 / (1 + \epsilon / \sigma_o)` times the kernel's inverse deviation :math:`r_o`, and in
  the gradient :math:`k^2 = r_o^2 / (1 + \epsilon / \sigma_o)`.

The statistics handed on are the kernel's mean and :math:`r_o`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class _Terms(NamedTuple):
    """eps and scale for kernels of biased variance with eps inside the root."""

    eps: float
    scale: float
    # eps / sigma is this times the kernel's inverse deviation; 0 with eps inside.
    shrinkage: float


def _terms(rows: Tensor, eps: float, eps_inside: bool, divisor: int, scale: float) -> _Terms:
    n = rows.shape[1]
    unbias = math.sqrt(n / divisor)
    # Of a single element the kernel leaves rounding errors, divided by eps; 0 is exact.
    scale = scale / unbias if n > 1 else 0.0
    tiny = torch.finfo(rows.dtype).tiny
    if eps_inside:
        return _Terms(max(eps / unbias**2, tiny), scale, 0.0)
    return _Terms(tiny, scale, eps / unbias)


def standardize(
    rows: Tensor,
    gain: Tensor | None,
    shift: Tensor | None,
    eps: float,
    eps_inside: bool,
    divisor: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Standardize every row; see :mod:`mmws.kernels.operators`."""
    terms = _terms(rows, eps, eps_inside, divisor, scale)
    if eps_inside:
        return _group_norm(rows, _row_gain(gain, terms.scale, rows), shift, terms.eps)
    # The factor needs the statistics, which come with the rows that it is for.
    out, mean, inverse_deviation = _group_norm(rows, None, None, terms.eps)
    out.mul_(_factor(gain, terms, inverse_deviation)[:, None])
    if shift is not None:
        out.add_(shift[:, None])
    return out, mean, inverse_deviation


def restandardize(
    rows: Tensor,
    gain: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    inverse_deviation: Tensor,
    eps: float,
    eps_inside: bool,
    divisor: int,
    scale: float,
) -> Tensor:
    """Standardize every row with statistics known; see :mod:`mmws.kernels.operators`."""
    terms = _terms(rows, eps, eps_inside, divisor, scale)
    if eps_inside:
        factor = _row_gain(gain, terms.scale, rows)
    else:
        factor = _factor(gain, terms, inverse_deviation)
    return _group_norm(rows, factor, shift, terms.eps)[0]


def standardize_backward(
    grad: Tensor,
    rows: Tensor,
    gain: Tensor | None,
    mean: Tensor,
    inverse_deviation: Tensor,
    eps: float,
    eps_inside: bool,
    divisor: int,
    scale: float,
    mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to ``rows``, gain and shift; see :mod:`mmws.kernels.operators`."""
    terms = _terms(rows, eps, eps_inside, divisor, scale)
    root: Tensor | float = 1.0
    row_gain = _row_gain(gain, terms.scale, rows)
    if not eps_inside:
        # One root belongs to the inverse deviation k, the other to the gain.
        root = torch.rsub(inverse_deviation, 1.0, alpha=-terms.shrinkage).rsqrt_()
        inverse_deviation = inverse_deviation * root
        row_gain = root * terms.scale if gain is None else row_gain * root
    grad_rows, grad_gain, grad_shift = torch.ops.aten.native_batch_norm_backward(
        grad[None], rows[None], row_gain,
        None, None, mean, inverse_deviation, True, 0.0, mask,
    )  # fmt: skip
    if mask[1]:
        grad_gain = grad_gain.mul_(terms.scale).mul_(root)
    absent = rows.new_empty(0)
    return (
        grad_rows[0] if mask[0] else absent,
        grad_gain if mask[1] else absent,
        grad_shift if mask[2] else absent,
    )


def _row_gain(gain: Tensor | None, scale: float, rows: Tensor) -> Tensor | None:
    if gain is not None:
        return gain * scale if scale != 1.0 else gain
    return None if scale == 1.0 else rows.new_full((rows.shape[0],), scale)


def _factor(gain: Tensor | None, terms: _Terms, inverse_deviation: Tensor) -> Tensor:
    if terms.scale == 0.0:
        return torch.zeros_like(inverse_deviation)
    shrunk = torch.rsub(
        inverse_deviation, 1 / terms.scale, alpha=-terms.shrinkage / terms.scale
    ).reciprocal_()
    return shrunk if gain is None else shrunk.mul_(gain)


def _group_norm(
    rows: Tensor, gain: Tensor | None, shift: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize every row: the result, its mean and its inverse standard deviation.

    Batch normalization in training mode does the same; group normalization reads a row once.
    """
    o, n = rows.shape
    out, mean, inverse_deviation = torch.native_group_norm(rows[None], gain, shift, 1, o, n, o, eps)
    return out.view(o, n), mean.view(o), inverse_deviation.view(o)
