r"""The operators by PyTorch's own kernels, for any device.

Group normalization with every row a group standardizes filters in one call, but with the biased
variance and with eps inside the root: it makes :math:`r\,c` of a centred row :math:`c`. With
:math:`u = \sqrt{n / m}` for the divisor :math:`m` of the wanted variance, :math:`\sigma = u / r`:

.. math:: \frac{c}{\sigma + \epsilon} = \frac{r\,c}{u\,p}, \quad p = 1 + \epsilon r / u, \qquad
    \frac{c}{\sqrt{\sigma^2 + \epsilon}} = \frac{r\,c}{u}

the latter with :math:`\epsilon / u^2` in the root of :math:`r`. The gradient is that of batch
normalization over one row, :math:`t k [g - \bar g - c\, k^2 \sum g\,c / n]`, with
:math:`k = r p^{-1/2}, t = s p^{-1/2} / u`, and :math:`p = 1` with eps inside.

At one image a step, the number of calls counts more than copies. So small filters of equal length,
of whichever layers, form one matrix, and the per-filter vectors of all layers form one vector.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmws.compat.torch_private import dispatch_mode_active, flatten, unflatten

_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default
_weight_norm_backward = torch.ops.aten._weight_norm_interface_backward.default

MAX_JOINED = 2**14
"""Elements of a layer's filters above which copying them takes longer than a call of their own."""


class _Layout:
    """How the filters of many layers are joined.

    Args:
        sizes: The shapes of the layers' weights.
        max_joined: See :data:`MAX_JOINED`.
    """

    def __init__(self, sizes: tuple[torch.Size, ...], max_joined: int) -> None:
        shapes = [(size[0], size.numel()) for size in sizes]
        by_length: dict[int, list[int]] = {}
        large = []
        for i, (filters, elements) in enumerate(shapes):
            if elements > max_joined:
                large.append([i])
            else:
                by_length.setdefault(elements // filters, []).append(i)
        self.members = [*by_length.values(), *large]
        """The layers of every matrix, by their places in the lists of an operator."""
        self.order = [i for members in self.members for i in members]
        self.matrices = tuple(
            (sum(shapes[i][0] for i in members), shapes[members[0]][1] // shapes[members[0]][0])
            for members in self.members
        )
        """For every matrix, its filters and the elements of a filter."""
        self.filters = [filters for filters, _ in self.matrices]
        self._joined = self.order[: len(shapes) - len(large)]
        self._elements = [filters * n for filters, n in self.matrices[: len(by_length)]]
        self._filters_in_order = [shapes[i][0] for i in self.order]

    def join(self, rows: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor | None:
        """Return all small filters in one new vector, None if there is at most one such layer."""
        if len(self._joined) < 2:
            return None
        flat = flatten([rows[i] for i in self._joined])
        return flat if dtype is None else flat.to(dtype)

    def as_matrices(self, flat: Tensor | None, rows: Sequence[Tensor], *batch: int) -> list[Tensor]:
        """Return what :meth:`join` returned, and the rows of large layers, as matrices.

        Args:
            flat: What :meth:`join` returned.
            rows: What :meth:`join` was given.
            *batch: Sizes in front of those of a matrix.
        """
        parts: Iterable[Tensor] = (rows[i] for i in self.order)
        if flat is not None:
            large = self.order[len(self._joined) :]
            parts = (*flat.split(self._elements), *(rows[i] for i in large))
        return [part.view(*batch, *shape) for part, shape in zip(parts, self.matrices)]

    def split(self, matrices: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
        """Return views of matrices: one for every layer, in the shapes of ``like``."""
        views = [*like]
        for matrix, members in zip(matrices, self.members):
            if len(members) == 1:
                views[members[0]] = matrix.view(like[members[0]].shape)
                continue
            for i, view in zip(members, unflatten(matrix.view(-1), [like[i] for i in members])):
                views[i] = view
        return views

    def join_vectors(self, vectors: Sequence[Tensor]) -> Tensor:
        """Return per-filter vectors as one, in the order of the matrices."""
        return flatten([vectors[i] for i in self.order])

    def split_vector(self, vector: Tensor) -> list[Tensor]:
        """Undo :meth:`join_vectors`."""
        parts = dict(zip(self.order, vector.split(self._filters_in_order)))
        return [parts[i] for i in range(len(parts))]


_cached_layout = functools.lru_cache(maxsize=256)(_Layout)


def _layout(rows: Sequence[Tensor]) -> _Layout:
    return _cached_layout(tuple([w.shape for w in rows]), MAX_JOINED)


class _Constants(NamedTuple):
    """What depends on the lengths of filters alone, a value for every filter: 1, E and S."""

    one: Tensor
    eps: Tensor  # E = eps / u
    scale: Tensor  # S = s / u
    ratio: Tensor  # E / S
    reciprocal: Tensor  # 1 / S


def _make_constants(
    matrices: tuple[tuple[int, int], ...], eps: float, unbiased: bool, scale: float,
    dtype: torch.dtype, device: torch.device,
) -> _Constants:  # fmt: skip
    values = []
    for filters, n in matrices:
        u = _u(n, unbiased)
        # For n == 1 the deviation from the mean is exactly 0, but group_norm returns rounding noise
        # divided by eps, so multiply by 0.
        e, s = (eps / u, scale / u) if n > 1 else (0.0, 0.0)
        row = [1.0, e, s, e / s if s else 0.0, 1 / s if s else math.inf]
        values.append(torch.tensor(row, dtype=dtype, device='cpu')[:, None].expand(-1, filters))
    with torch.inference_mode(False):
        return _Constants(*torch.cat(values, 1).to(device).clone())


_cached_constants = functools.lru_cache(maxsize=1024)(_make_constants)


def _constants(*key: Any) -> _Constants:
    # What a dispatch mode makes, such as a fake tensor, must not be kept.
    return _make_constants(*key) if dispatch_mode_active() else _cached_constants(*key)


def _u(n: int, unbiased: bool) -> float:
    return math.sqrt(n / (n - 1)) if unbiased and n > 1 else 1.0


def _group_norm(
    matrix: Tensor, filters: int, n: int, eps: float, unbiased: bool, eps_inside: bool
) -> tuple[Tensor, Tensor, Tensor]:
    smallest = torch.finfo(matrix.dtype).tiny
    eps = max(eps / _u(n, unbiased) ** 2, smallest) if eps_inside else smallest
    return torch.native_group_norm(matrix, None, None, filters, 1, n, 1, eps)


def _factor(r: Tensor, constants: _Constants, eps_inside: bool) -> Tensor:
    """Return what a filter is multiplied by after group normalization: S / p."""
    if eps_inside:
        return constants.scale
    return torch.addcmul(constants.reciprocal, r, constants.ratio).reciprocal_()


def _backward_factors(r: Tensor, constants: _Constants, eps_inside: bool) -> tuple[Tensor, Tensor]:
    """Return t and k."""
    if eps_inside:
        return constants.scale, r
    root = torch.addcmul(constants.one, r, constants.eps).rsqrt_()
    return root * constants.scale, root * r


def standardize_one(
    rows: Tensor, eps: float, unbiased: bool, eps_inside: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Standardize the filters of one layer: the weight, its means (O, 1), and r (O)."""
    filters = rows.shape[0]
    n = rows.numel() // filters
    constants = _constants(((1, n),), eps, unbiased, scale, rows.dtype, rows.device)
    out, mean, r = _group_norm(rows, filters, n, eps, unbiased, eps_inside)
    out.view(filters, n).mul_(_factor(r, constants, eps_inside))
    return out, mean, r.view(filters)


def standardize_one_backward(
    grad: Tensor, rows: Tensor, mean: Tensor, r: Tensor,
    eps: float, unbiased: bool, eps_inside: bool, scale: float,
) -> Tensor:  # fmt: skip
    """Return the gradient with respect to the rows of one layer."""
    filters = rows.shape[0]
    shape = 1, filters, rows.numel() // filters
    constants = _constants((shape[1:],), eps, unbiased, scale, rows.dtype, rows.device)
    t, k = _backward_factors(r, constants, eps_inside)
    if grad.dtype != rows.dtype:
        grad = grad.to(rows.dtype)
    grad_rows, _, _ = _batch_norm_backward(
        grad.view(shape), rows.view(shape), t, None, None, mean.view(filters), k, True, 0.0,
        (True, False, False),
    )  # fmt: skip
    return grad_rows.view(rows.shape)


def standardize(
    rows: list[Tensor], gains: list[Tensor], shifts: list[Tensor],
    eps: float, unbiased: bool, eps_inside: bool, scale: float, dtype: torch.dtype,
) -> list[Tensor]:  # fmt: skip
    """Standardize all filters; see :mod:`mmws.kernels.operators`."""
    layout = _layout(rows)
    key = layout.matrices, eps, unbiased, scale, rows[0].dtype, rows[0].device
    flat = layout.join(rows)
    made = [
        _group_norm(matrix, *shape, eps, unbiased, eps_inside)
        for matrix, shape in zip(layout.as_matrices(flat, rows), layout.matrices)
    ]
    outs = [out for out, _, _ in made]
    r = torch.cat([r for _, _, r in made]).view(-1)
    factor = _factor(r, _constants(*key), eps_inside)
    if gains:
        factor = factor * layout.join_vectors(gains)
    torch._foreach_mul_(outs, factor.view(-1, 1).split(layout.filters))
    if shifts:
        shift = layout.join_vectors(shifts)
        torch._foreach_add_(outs, shift.view(-1, 1).split(layout.filters))
    kept = [*(mean for _, mean, _ in made), r, *([] if flat is None else [flat])]
    return [*layout.split(_to(outs, dtype), rows), *kept]


def standardize_backward(
    grads: list[Tensor], rows: list[Tensor], gains: list[Tensor], kept: list[Tensor],
    eps: float, unbiased: bool, eps_inside: bool, scale: float, mask: list[bool],
) -> list[Tensor]:  # fmt: skip
    """Gradients of a standardization; see :mod:`mmws.kernels.operators`."""
    layout = _layout(rows)
    key = layout.matrices, eps, unbiased, scale, rows[0].dtype, rows[0].device
    means, (r, *flat) = kept[: len(layout.matrices)], kept[len(layout.matrices) :]
    t, k = _backward_factors(r, _constants(*key), eps_inside)
    weights = t * layout.join_vectors(gains) if gains else t
    results = [
        _batch_norm_backward(
            grad,
            matrix,
            weight,
            None,
            None,
            mean.view(-1),
            k_of_matrix,
            True,
            0.0,
            mask,
        )
        for grad, matrix, weight, mean, k_of_matrix in zip(
            _grads(layout, grads, rows, 1),
            layout.as_matrices(flat[0] if flat else None, rows, 1),
            weights.split(layout.filters),
            means,
            k.split(layout.filters),
        )
    ]
    made = layout.split([grad for grad, _, _ in results], rows) if mask[0] else []
    if mask[1]:
        made += layout.split_vector(torch.cat([grad for _, grad, _ in results]).mul_(t))
    if mask[2]:
        made += layout.split_vector(torch.cat([grad for _, _, grad in results]))
    return made


def normalize(rows: list[Tensor], gains: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Give every filter the length of its gain; see :mod:`mmws.kernels.operators`."""
    layout = _layout(rows)
    flat = layout.join(rows)
    matrices = layout.as_matrices(flat, rows)
    norm = torch.cat([torch.linalg.vector_norm(matrix, dim=1) for matrix in matrices])
    # An infinite norm makes 0 of a row without direction, and of its gradients.
    norm = norm.masked_fill_(norm == 0, math.inf)
    factor = layout.join_vectors(gains) / norm
    outs = torch._foreach_mul(matrices, factor.view(-1, 1).split(layout.filters))
    return [*layout.split(_to(outs, dtype), rows), norm, *([] if flat is None else [flat])]


def normalize_backward(
    grads: list[Tensor], rows: list[Tensor], gains: list[Tensor], kept: list[Tensor],
    mask: list[bool],
) -> list[Tensor]:  # fmt: skip
    """Gradients of a normalization; see :mod:`mmws.kernels.operators`."""
    layout = _layout(rows)
    norm, *flat = kept
    gain = layout.join_vectors(gains).view(-1, 1)
    results = [
        _weight_norm_backward(*tensors, 0)
        for tensors in zip(
            _grads(layout, grads, rows),
            layout.as_matrices(flat[0] if flat else None, rows),
            gain.split(layout.filters),
            norm.view(-1, 1).split(layout.filters),
        )
    ]
    made = layout.split([grad for grad, _ in results], rows) if mask[0] else []
    if mask[1]:
        made += layout.split_vector(torch.cat([grad for _, grad in results]).view(-1))
    return made


def _to(tensors: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    return [t if t.dtype is dtype else t.to(dtype) for t in tensors]


def _grads(
    layout: _Layout, grads: Sequence[Tensor], rows: Sequence[Tensor], *batch: int
) -> Sequence[Tensor]:
    """Return gradients as matrices, in the dtype of the rows."""
    dtype = rows[0].dtype
    flat = layout.join(grads, dtype)
    return _to(layout.as_matrices(flat, grads, *batch), dtype)
