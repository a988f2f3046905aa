r"""The operators by PyTorch's own kernels, for any device.

Group normalization with every row a group makes a standardized filter in one call, but with the
biased variance and with eps inside the root; the gradient is that of batch normalization over one
row, :math:`\gamma' k [g - \bar g - c\, k^2 \sum g\,c / n]` with :math:`c` the centred row. What
the two kernels cannot express goes into their per-row factors:

- ``unbias`` :math:`= \sqrt{n / \mathrm{divisor}}`, and :math:`\sigma_o` is ``unbias`` times the
  biased deviation, the inverse of :math:`r_o`;
- for eps outside the root, :math:`1 / d_o` is :math:`r_o / \mathrm{unbias}` shrunk by
  :math:`\rho_o^2 = 1 / (1 + \epsilon / \sigma_o)`. In the gradient one :math:`\rho_o` belongs to
  :math:`k = \rho_o r_o`, the other to :math:`\gamma'`.

Kept of a standardization are :math:`\mu_o`, :math:`k` and :math:`\gamma' / \gamma_o`, whose product
with :math:`k` and :math:`\gamma_o` is what the centred row is multiplied by; of a normalization the
norms and the factors.
"""

from __future__ import annotations

import math
import threading
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


class _Workspace(threading.local):
    """Memory of a thread of the CPU that one filter after another is written to.

    Fresh memory is not in the processor's cache, so that writing it costs more than computing
    what is written.
    """

    max_bytes = 2**24  # more would not stay in the cache either

    def __init__(self) -> None:
        self._memory: dict[torch.dtype, Tensor] = {}

    def take(self, rows: Tensor) -> Tensor | None:
        """Return :math:`(1, O, n)` to write to; None if this is not the place for ``rows``."""
        n = rows.numel()
        if rows.device.type != 'cpu' or n * rows.element_size() > self.max_bytes:
            return None
        memory = self._memory.get(rows.dtype)
        if memory is None or memory.numel() < n:
            with torch.inference_mode(False):
                memory = self._memory[rows.dtype] = torch.empty(n, dtype=rows.dtype)
        return memory[:n].view(1, *rows.shape)


_workspace = _Workspace()


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
    terms = _terms(rows, eps, eps_inside, divisor, scale)
    if eps_inside:
        unit = rows.new_full(rows.shape[:1], terms.scale)
        factor = unit if gain is None else unit * gain
        out, mean, k = _group_norm(rows, factor, shift, terms.eps)
        return out, [mean, k, unit]
    # The factor needs the deviation, which comes with the rows that it is for.
    out, mean, inverse_deviation = _group_norm(rows, None, None, terms.eps)
    root = torch.rsub(inverse_deviation, 1.0, alpha=-terms.shrinkage).rsqrt_()
    unit = root * terms.scale
    k, factor = torch._foreach_mul([inverse_deviation, unit], [root, root])
    if gain is not None:
        factor.mul_(gain)
    out.mul_(factor[:, None])
    if shift is not None:
        out.add_(shift[:, None])
    return out, [mean, k, unit]


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
    """Standardize every row once more, to be used at once; see :mod:`mmws.kernels.operators`."""
    mean, k, unit = kept
    factor = k * unit if gain is None else (k * unit).mul_(gain)
    # Batch normalization in evaluation with these statistics, whose variance (0 + 1) has no part.
    arguments = rows[None], factor, shift, mean, torch.zeros_like(mean), False, 0.0, 1.0
    out = _workspace.take(rows)
    if out is None:
        return torch.native_batch_norm(*arguments)[0][0]
    torch.ops.aten.native_batch_norm.out(
        *arguments, out=out, save_mean=mean.new_empty(0), save_invstd=mean.new_empty(0)
    )
    return out[0]


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
    mean, k, unit = kept
    bn_gain = unit if gain is None else unit * gain
    grad_rows, grad_gain, grad_shift = torch.ops.aten.native_batch_norm_backward(
        grad[None], rows[None], bn_gain, None, None, mean, k, True, 0.0, mask
    )
    absent = rows.new_empty(0)
    return (
        grad_rows[0] if mask[0] else absent,
        grad_gain.mul_(unit) if mask[1] else absent,
        grad_shift if mask[2] else absent,
    )


def _group_norm(
    rows: Tensor, gain: Tensor | None, shift: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize every row: the result, its mean and its inverse standard deviation.

    Batch normalization in training mode does the same; group normalization reads a row once.
    """
    o, n = rows.shape
    out, mean, inverse_deviation = torch.native_group_norm(rows[None], gain, shift, 1, o, n, o, eps)
    return out.view(o, n), mean.view(o), inverse_deviation.view(o)


def normalize(rows: Tensor, gain: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Give every row the length of its gain; see :mod:`mmws.kernels.operators`."""
    # An infinite norm makes 0 of a row without direction, and of its gradients.
    norm = torch.threshold(torch.linalg.vector_norm(rows, dim=1), 0.0, math.inf)
    factor = gain / norm
    return rows * factor[:, None], [norm, factor]


def renormalize(rows: Tensor, gain: Tensor, kept: list[Tensor]) -> Tensor:
    """Give every row its length, to be used at once; see :mod:`mmws.kernels.operators`."""
    out = _workspace.take(rows)
    return torch.mul(rows, kept[1][:, None], out=None if out is None else out[0])


def normalize_backward(
    grad: Tensor, rows: Tensor, gain: Tensor, kept: list[Tensor], mask: list[bool]
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to ``rows`` and gain; see :mod:`mmws.kernels.operators`."""
    grad_rows, grad_gain = torch.ops.aten._weight_norm_interface_backward(
        grad, rows, gain[:, None], kept[0][:, None], 0
    )
    return grad_rows, grad_gain[:, 0]
