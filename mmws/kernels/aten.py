r"""The operators by PyTorch's own kernels, for any device.

Group normalization with every row a group standardizes filters in one call, but with the biased
variance and with eps inside the root: it makes :math:`r\,c` of a centred row :math:`c`. With
:math:`u = \sqrt{n / m}` for the divisor :math:`m` of the wanted variance, :math:`\sigma = u / r`:

.. math:: \frac{c}{\sigma + \epsilon} = \frac{r\,c}{u\,p}, \quad p = 1 + \epsilon r / u, \qquad
    \frac{c}{\sqrt{\sigma^2 + \epsilon}} = \frac{r\,c}{u}

the latter with :math:`\epsilon / u^2` in the root of :math:`r`. The gradient is that of batch
normalization over one row, :math:`t k [g - \bar g - c\, k^2 \sum g\,c / n]`, with
:math:`k = r p^{-1/2}, t = s p^{-1/2} / u`, and :math:`p = 1` with eps inside.

Small filters of equal length are stacked: for them the number of calls counts, not the copy. For
the same reason constants are tensors: PyTorch wraps a Python number in a new tensor at every call.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmws.compat.torch_private import dispatch_mode_active, flatten, unflatten

_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default
_weight_norm_backward = torch.ops.aten._weight_norm_interface_backward.default
_TINY = {dtype: torch.finfo(dtype).tiny for dtype in (torch.float32, torch.float64)}

MAX_STACKED = 2**16
"""Elements of a layer's filters above which copying them takes longer than a call of their own."""


class _Stack(NamedTuple):
    """Filters of equal length, of one or many layers."""

    members: list[int]
    """The layers, by their places in the lists of an operator."""
    n: int
    """Elements of a filter."""

    def join(self, tensors: Sequence[Tensor]) -> Tensor | None:
        """Return rows as one matrix, per-filter vectors as one vector, None for an empty list."""
        if not tensors:
            return None
        first = tensors[self.members[0]]
        if len(self.members) == 1:
            return first
        flat = flatten([tensors[i] for i in self.members])
        return flat if first.dim() == 1 else flat.view(-1, self.n)

    def split(self, joined: Tensor, into: list[Tensor], like: Sequence[Tensor]) -> None:
        """Put views of a matrix or vector in the places of the layers."""
        if len(self.members) == 1:
            i = self.members[0]
            into[i] = joined.view(like[i].shape)
            return
        views = unflatten(joined.view(-1), [like[i] for i in self.members])
        for i, view in zip(self.members, views):
            into[i] = view

    def split_gradients(
        self, grads: Sequence[Tensor | None], into: list[list[Tensor]], rows: Sequence[Tensor]
    ) -> None:
        """Put views of the gradients of rows and vectors in the places of the layers."""
        for grad, column in zip(grads, into):
            if column and grad is not None:
                vectors = column is not into[0]
                self.split(grad, column, [r.flatten(1)[:, 0] for r in rows] if vectors else rows)


def _stacks(rows: Sequence[Tensor]) -> list[_Stack]:
    stacks: list[_Stack] = []
    small: dict[int, _Stack] = {}
    for i, weight in enumerate(rows):
        numel = weight.numel()
        n = numel // weight.shape[0]
        if numel <= MAX_STACKED and n in small:
            small[n].members.append(i)
            continue
        stack = _Stack([i], n)
        stacks.append(stack)
        if numel <= MAX_STACKED:
            small[n] = stack
    return stacks


def standardize_one(
    rows: Tensor, gain: Tensor | None, shift: Tensor | None,
    eps: float, unbiased: bool, eps_inside: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Standardize the filters of one weight: the weight, its means, and r, each (O, 1)."""
    o = rows.shape[0]
    n = rows.numel() // o
    u = math.sqrt(n / (n - 1)) if unbiased and n > 1 else 1.0
    smallest = _TINY[rows.dtype]
    kernel_eps = max(eps / u**2, smallest) if eps_inside else smallest
    out, mean, r = torch.native_group_norm(rows, None, None, o, 1, n, 1, kernel_eps)
    # For n == 1 the deviation from the mean is exactly 0, but group_norm returns rounding noise
    # divided by eps, so multiply by 0.
    scale = scale / u if n > 1 else 0.0
    matrix = out.view(o, n)
    factor = None
    if not eps_inside:
        factor = _one_plus(r, eps / u).reciprocal_()
    if scale != 1.0:
        constant = _constant(scale, rows.dtype)
        factor = constant if factor is None else factor.mul_(constant)
    if gain is not None:
        factor = gain[:, None] if factor is None else factor * gain[:, None]
    if factor is not None:
        matrix.mul_(factor)
    if shift is not None:
        matrix.add_(shift[:, None])
    return out, mean, r


def _one_plus(r: Tensor, factor: float) -> Tensor:
    return (r * _constant(factor, r.dtype)).add_(_constant(1.0, r.dtype))


def _constant(value: float, dtype: torch.dtype) -> Tensor:
    # What a dispatch mode makes, such as a fake tensor, must not be kept.
    return _new_constant(value, dtype) if dispatch_mode_active() else _kept_constant(value, dtype)


def _new_constant(value: float, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device='cpu')


_kept_constant = functools.lru_cache(maxsize=1024)(_new_constant)


def standardize_one_backward(
    grad: Tensor, rows: Tensor, gain: Tensor | None, mean: Tensor, r: Tensor,
    eps: float, unbiased: bool, eps_inside: bool, scale: float,
    mask: Sequence[bool] = (True, False, False),
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Return the gradients with respect to rows (1, O, n), gain and shift."""
    o = rows.shape[0]
    n = rows.numel() // o
    u = math.sqrt(n / (n - 1)) if unbiased and n > 1 else 1.0
    scale = scale / u if n > 1 else 0.0
    r = r.view(o)
    if eps_inside:
        k, t = r, torch.full_like(r, scale)
    else:
        t = _one_plus(r, eps / u).rsqrt_()
        k = r * t
        if scale != 1.0:
            t = t.mul_(_constant(scale, r.dtype))
    if grad.dtype != rows.dtype:
        grad = grad.to(rows.dtype)
    grad_rows, grad_gain, grad_shift = _batch_norm_backward(
        grad.view(1, o, n), rows.view(1, o, n), t if gain is None else t * gain,
        None, None, mean.view(o), k, True, 0.0, mask,
    )  # fmt: skip
    grad_rows = grad_rows.view(rows.shape) if mask[0] else None
    return grad_rows, grad_gain.mul_(t) if mask[1] else None, grad_shift


def standardize(
    rows: list[Tensor], gains: list[Tensor], shifts: list[Tensor],
    eps: float, unbiased: bool, eps_inside: bool, scale: float, dtype: torch.dtype,
) -> list[Tensor]:  # fmt: skip
    """Standardize all filters; see :mod:`mmws.kernels.operators`."""
    made: list[Tensor] = [*rows]
    kept = []
    for stack in _stacks(rows):
        out, mean, r = standardize_one(
            stack.join(rows), stack.join(gains), stack.join(shifts),
            eps, unbiased, eps_inside, scale,
        )  # fmt: skip
        stack.split(out if dtype == out.dtype else out.to(dtype), made, rows)
        kept += [mean, r]
    return made + kept


def standardize_backward(
    grads: list[Tensor], rows: list[Tensor], gains: list[Tensor], kept: list[Tensor],
    eps: float, unbiased: bool, eps_inside: bool, scale: float, mask: list[bool],
) -> list[Tensor]:  # fmt: skip
    """Gradients of a standardization; see :mod:`mmws.kernels.operators`."""
    made: list[list[Tensor]] = [[*rows] if needed else [] for needed in mask]
    for j, stack in enumerate(_stacks(rows)):
        results = standardize_one_backward(
            stack.join(grads), stack.join(rows), stack.join(gains), kept[2 * j], kept[2 * j + 1],
            eps, unbiased, eps_inside, scale, mask,
        )  # fmt: skip
        stack.split_gradients(results, made, rows)
    return [grad for grads in made for grad in grads]


def normalize(rows: list[Tensor], gains: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Give every filter the length of its gain; see :mod:`mmws.kernels.operators`."""
    made: list[Tensor] = [*rows]
    kept = []
    for stack in _stacks(rows):
        matrix = stack.join(rows).view(-1, stack.n)
        norm = torch.linalg.vector_norm(matrix, dim=1, keepdim=True)
        # An infinite norm makes 0 of a row without direction, and of its gradients.
        norm = torch.where(norm > _constant(0.0, norm.dtype), norm, _constant(math.inf, norm.dtype))
        out = matrix * (stack.join(gains)[:, None] / norm)
        stack.split(out if dtype == out.dtype else out.to(dtype), made, rows)
        kept.append(norm)
    return made + kept


def normalize_backward(
    grads: list[Tensor], rows: list[Tensor], gains: list[Tensor], kept: list[Tensor],
    mask: list[bool],
) -> list[Tensor]:  # fmt: skip
    """Gradients of a normalization; see :mod:`mmws.kernels.operators`."""
    made: list[list[Tensor]] = [[*rows] if needed else [] for needed in mask]
    for stack, norm in zip(_stacks(rows), kept):
        matrix = stack.join(rows).view(-1, stack.n)
        grad = stack.join(grads).view(matrix.shape).to(matrix.dtype)
        gain = stack.join(gains)[:, None]
        stack.split_gradients(_weight_norm_backward(grad, matrix, gain, norm, 0), made, rows)
    return [grad for grads in made for grad in grads]
