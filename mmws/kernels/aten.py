r"""The operators by PyTorch's own kernels, for any device.

Group normalization with every row a group makes a standardized filter in one call, but with the
biased variance and with eps inside the root: of a centred row :math:`c` it makes :math:`r\,c`. With
:math:`u = \sqrt{n / \mathrm{divisor}}` the rest is

.. math:: \hat W_o = \gamma_o f_o\, c + \beta_o, \qquad f = k\, t, \quad k = r p, \quad
    t = \frac{s}{u}\, p, \quad p_o^2 = \frac{1}{1 + \epsilon / \sigma_o}

where :math:`\sigma_o = u / r_o`; with eps inside :math:`p = 1`. The gradient is that of batch
normalization over one row, :math:`\gamma' k [g - \bar g - c\, k^2 \sum g\,c / n]` with
:math:`\gamma' = \gamma t`.

Kept of a standardization are :math:`\mu`, :math:`k`, :math:`t` and :math:`f`; of a normalization
the norms and the factors.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default


class _Workspace(threading.local):
    """Memory of a thread of the CPU that one filter after another is written to.

    Fresh memory is not in the processor's cache, so that writing it costs more than computing
    what is written.
    """

    max_bytes = 2**24  # more would not stay in the cache either

    def __init__(self) -> None:
        self._memory: dict[torch.dtype, Tensor] = {}
        self._views: dict[tuple[torch.dtype, torch.Size], Tensor] = {}

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return memory for a tensor like ``rows``, and a view of it as :math:`(O, n)`."""
        if not rows.is_cpu or rows.nbytes > self.max_bytes:
            out = torch.empty_like(rows)
            return out, out.flatten(1)
        key = rows.dtype, rows.shape
        views = self._views.get(key)
        if views is None:
            with torch.inference_mode(False):
                memory = self._memory.get(rows.dtype)
                if memory is None or memory.numel() < rows.numel():
                    self._views.clear()  # they are of the smaller memory, which would stay
                    memory = self._memory[rows.dtype] = rows.new_empty(rows.numel())
                out = memory[: rows.numel()].view_as(rows)
                views = self._views[key] = out, out.flatten(1)
        return views


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
    o = rows.shape[0]
    n = rows.numel() // o
    u = math.sqrt(n / divisor)
    # Of a single element the kernel leaves rounding errors, divided by eps; 0 is exact.
    ratio = scale / u if n > 1 else 0.0
    kernel_eps = _TINY[rows.dtype]
    if eps_inside:
        kernel_eps = max(eps / u**2, kernel_eps)
    out, mean, r = torch.native_group_norm(rows.view(o, n), None, None, o, 1, n, 1, kernel_eps)
    if eps_inside:
        k, t = r, torch.full_like(r, ratio)
        factor = t
    else:
        p = torch.ones_like(r).add_(r, alpha=eps / u).rsqrt_()
        k, t = r * p, p * ratio
        factor = p * t
    if gain is not None:
        factor = factor * gain[:, None]
    if not (eps_inside and ratio == 1.0 and gain is None):
        out.mul_(factor)
    if shift is not None:
        out.add_(shift[:, None])
    return out.view(rows.shape), [mean, k, t, k * t]


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
    mean, _, _, f = kept
    return _again(rows, mean, f, gain, shift)


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
    o = rows.shape[0]
    n = rows.numel() // o
    mean, k, t, f = kept
    t = t.view(o)
    grad_rows, grad_gain, grad_shift = _batch_norm_backward(
        grad.view(1, o, n), rows.view(1, o, n), t if gain is None else t * gain,
        None, None, mean.view(o), k.view(o), True, 0.0, mask[:3],
    )  # fmt: skip
    made = []
    if mask[0]:
        made.append(grad_rows.view(rows.shape))
    if mask[1]:
        made.append(grad_gain.mul_(t))
    if mask[2]:
        made.append(grad_shift)
    if mask[3]:
        made.append(_again(rows, mean, f, gain, shift))
    return made


_TINY = {dtype: torch.finfo(dtype).tiny for dtype in (torch.float32, torch.float64)}


def _again(
    rows: Tensor, mean: Tensor, factor: Tensor, gain: Tensor | None, shift: Tensor | None
) -> Tensor:
    """Return ``(rows - mean) * factor * gain + shift``, where possible in the workspace."""
    if gain is not None:
        factor = factor * gain[:, None]
    out, flat = _workspace.take(rows)
    torch.sub(rows.view(flat.shape), mean, out=flat).mul_(factor)
    if shift is not None:
        flat.add_(shift[:, None])
    return out


def normalize(rows: Tensor, gain: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Give every row the length of its gain; see :mod:`mmws.kernels.operators`."""
    flat = rows.flatten(1)
    # An infinite norm makes 0 of a row without direction, and of its gradients.
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    norm = torch.threshold(norm, 0.0, math.inf)
    factor = gain[:, None] / norm
    return (flat * factor).view(rows.shape), [norm, factor]


def renormalize(rows: Tensor, gain: Tensor, kept: list[Tensor]) -> Tensor:
    """Give every row its length, to be used at once; see :mod:`mmws.kernels.operators`."""
    out, flat = _workspace.take(rows)
    torch.mul(rows.view(flat.shape), kept[1], out=flat)
    return out


def normalize_backward(
    grad: Tensor, rows: Tensor, gain: Tensor, kept: list[Tensor], mask: list[bool]
) -> list[Tensor]:
    """Gradients, and the rows once more; see :mod:`mmws.kernels.operators`."""
    norm = kept[0]
    grad_rows, grad_gain = torch.ops.aten._weight_norm_interface_backward(
        grad.flatten(1), rows.flatten(1), gain[:, None], norm, 0
    )
    made = []
    if mask[0]:
        made.append(grad_rows.view(rows.shape))
    if mask[1]:
        made.append(grad_gain.view(-1))
    if mask[2]:
        made.append(renormalize(rows, gain, kept))
    return made
