r"""Weight Standardization: zero mean and unit variance for every filter.

.. math:: \hat W_o = \gamma_o s\, \frac{W_o - \mu_o}{d_o} + \beta_o, \qquad
    d_o = \sigma_o + \epsilon \text{ or } \sqrt{\sigma_o^2 + \epsilon}

`arXiv 1903.10520 <https://arxiv.org/abs/1903.10520>`_, eq. 4 to 6, has neither :math:`\gamma`,
:math:`s` nor :math:`\beta`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Optional

import torch
from torch import Tensor
from typing_extensions import Unpack

from mmws import kernels

from .rows import (
    at_least_float32,
    from_rows,
    grad_to_rows,
    is_plain,
    kernel_arguments,
    kernel_gradients,
)
from .weight_function import Gradients, Stored, WeightFunction, apply


def standardize(
    weight: Tensor, eps: float, unbiased: bool, eps_inside: bool, scale: float,
    gain: Optional[Tensor] = None, shift: Optional[Tensor] = None,  # noqa: UP045 (TorchScript)
) -> Tensor:  # fmt: skip
    """Return the formula above, in the dtype of ``weight``; :class:`Standardize` explains it."""
    rows = at_least_float32(weight.flatten(1))
    n = rows.shape[1]
    centred = rows - rows.mean(1, keepdim=True)
    # One element has no unbiased variance; its deviation from the mean is 0 anyway.
    variance = centred.square().sum(1, keepdim=True) / (max(n - 1, 1) if unbiased else n)
    # The root has no derivative at 0: divide a filter without variance by a constant instead.
    positive = variance > 0
    variance = torch.where(positive, variance, 1.0)
    if eps_inside:
        deviation, constant = (variance + eps).sqrt(), eps**0.5
    else:
        deviation, constant = variance.sqrt() + eps, eps
    out = centred / torch.where(positive, deviation, max(constant, 1e-19))
    if scale != 1.0:
        out = out * scale
    if gain is not None:
        out = out * gain.reshape(-1, 1).to(out.dtype)
    if shift is not None:
        out = out + shift.reshape(-1, 1).to(out.dtype)
    return out.view(weight.shape).to(weight.dtype)


@dataclass(frozen=True)
class Standardize(WeightFunction):
    r"""Zero mean and unit variance for every filter: the formula at the top of this module.

    The gradient, with :math:`g` that of :math:`\hat W_o`, :math:`c = W_o - \mu_o` and :math:`m` the
    divisor of the variance, is

    .. math:: \frac{\gamma_o s}{d_o}\left[g - \bar g - c\,\frac{\sum g\,c}{m\,q_o}\right], \qquad
        q_o = \sigma_o d_o \text{ or } d_o^2

    (the paper's eq. 7 to 9 with :math:`\epsilon` kept).

    A filter without variance, or of one element, becomes :math:`\beta_o`; its gradient is that of
    the limit in which the last term of the bracket is 0.

    Args:
        eps: :math:`\epsilon`.
        variance: ``'unbiased'`` for :math:`m = n - 1` or ``'biased'`` for :math:`m = n`.
        eps_inside: Add :math:`\epsilon` to the variance rather than to the standard deviation.
        scale: :math:`s`, one factor for all filters.

    Raises:
        ValueError: if ``eps`` is negative or ``variance`` another word.
    """

    eps: float = 1e-5
    variance: str = 'unbiased'
    eps_inside: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.variance not in ('unbiased', 'biased'):
            raise ValueError(f"variance must be 'unbiased' or 'biased', got {self.variance!r}")
        if self.eps < 0:
            raise ValueError(f'eps must not be negative, got {self.eps}')

    def __call__(  # type: ignore[override]  # the base stands for any stored tensors
        self, weight: Tensor, gain: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        unbiased = self.variance == 'unbiased'
        return standardize(weight, self.eps, unbiased, self.eps_inside, self.scale, gain, shift)

    def evaluate(self, *stored: Unpack[Stored]) -> tuple[Tensor, Sequence[Tensor]]:
        if is_plain(stored):  # the usual case, without the detour of lists
            out, *kept = kernels.standardize_one(stored[0], *self._options())
            return out, kept
        (out,), made = self.evaluate_all([stored])
        return out, made

    def gradients(
        self, grad: Tensor, needs: Sequence[bool], kept: Sequence[Tensor], *stored: Unpack[Stored]
    ) -> Gradients:
        if is_plain(stored):
            grad = grad.contiguous()
            made = kernels.standardize_one_backward(grad, stored[0], *kept, *self._options())
            return (made, *stored[1:])
        return self.gradients_all([grad], needs, kept, [stored])[0]

    def evaluate_all(
        self, stored: Sequence[Stored], dtype: torch.dtype | None = None
    ) -> tuple[list[Tensor], Sequence[Tensor]]:
        weights = [tensors[0] for tensors in stored]
        rows, gains, shifts = kernel_arguments(stored)
        dtype = dtype or weights[0].dtype
        made = kernels.standardize(rows, gains, shifts, *self._options(), dtype)
        outs = [from_rows(out, weight) for out, weight in zip(made, weights)]
        return outs, made[len(weights) :]

    def gradients_all(
        self, grads: Sequence[Tensor], needs: Sequence[bool], kept: Sequence[Tensor],
        stored: Sequence[Stored],
    ) -> list[Gradients]:  # fmt: skip
        rows, gains, _ = kernel_arguments(stored)
        grads = [grad_to_rows(grad, tensors[0]) for grad, tensors in zip(grads, stored)]
        mask = [*needs, False, False][:3]
        made = kernels.standardize_backward(grads, rows, gains, kept, *self._options(), mask)
        return kernel_gradients(made, needs, stored)

    def _options(self) -> tuple[float, bool, bool, float]:
        return self.eps, self.variance == 'unbiased', self.eps_inside, self.scale


@cache
def standardization(eps: float, variance: str, eps_inside: bool, scale: float = 1.0) -> Standardize:
    """Return the function of these options, always the same object: layers ask at every call."""
    return Standardize(eps, variance, eps_inside, scale)


def check_weight(name: str, weight: Tensor) -> None:
    """Refuse what has no filters.

    Raises:
        ValueError: if ``weight`` has fewer than 2 dimensions or is not floating point.
    """
    if weight.dim() < 2 or not weight.is_floating_point():
        raise ValueError(
            f'{name} needs a floating-point weight of shape (O, ...) with at least 2 dimensions, '
            f'got {weight.dtype} of shape {tuple(weight.shape)}'
        )


def standardize_weight(
    weight: Tensor,
    eps: float = 1e-5,
    gain: Tensor | None = None,
    variance: str = 'unbiased',
    eps_inside: bool = False,
) -> Tensor:
    r"""Give every filter zero mean and unit variance (Weight Standardization).

    .. math:: \hat W_o = \gamma_o \frac{W_o - \mu_o}{\sigma_o + \epsilon}

    The defaults are those of `arXiv 1903.10520 <https://arxiv.org/abs/1903.10520>`_ (eq. 4 to 6)
    and its authors' code. BiT (`arXiv 1912.11370 <https://arxiv.org/abs/1912.11370>`_) and timm
    take ``variance='biased', eps_inside=True``; scaled WS
    (`arXiv 2101.08692 <https://arxiv.org/abs/2101.08692>`_, eq. 2) is that with a learned ``gain``
    times :math:`1 / \sqrt{n}`. Computed in float32 at least; see :class:`Standardize` for the
    gradient.

    Args:
        weight: :math:`(O, \ldots)`, floating point; see :class:`Transposed` for the weight of a
            transposed convolution.
        eps: :math:`\epsilon`, not negative.
        gain: :math:`\gamma`, ``O`` elements in any shape, such as :math:`(O, 1, 1, 1)`.
        variance: ``'unbiased'`` or ``'biased'``, the sum of squares over ``n - 1`` or ``n``.
        eps_inside: Divide by :math:`\sqrt{\sigma^2 + \epsilon}` instead.

    Returns:
        A tensor of the shape and dtype of ``weight``.

    Raises:
        ValueError: if ``weight`` has fewer than 2 dimensions or is not floating point, if ``gain``
            has not ``O`` elements, if ``eps`` is negative, if ``variance`` is another word.
    """
    check_weight('standardize_weight', weight)
    if gain is not None and gain.numel() != weight.shape[0]:
        raise ValueError(
            f'gain needs one element for each of {weight.shape[0]} filters, got {gain.numel()}'
        )
    return apply(Standardize(eps, variance, eps_inside), weight, gain)
