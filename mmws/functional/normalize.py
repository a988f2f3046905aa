r"""Weight Normalization: length and direction of every filter apart.

.. math:: W_o = g_o \frac{V_o}{\lVert V_o \rVert}

`arXiv 1602.07868 <https://arxiv.org/abs/1602.07868>`_, eq. 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Unpack

from mmws import kernels

from .rows import at_least_float32, from_rows, grad_to_rows, kernel_arguments, kernel_gradients
from .standardize import check_weight
from .weight_function import Gradients, Stored, WeightFunction, apply


def normalize(weight: Tensor, gain: Tensor) -> Tensor:
    """Return the formula above, in the dtype of ``weight``; a filter of zeros stays one."""
    rows = at_least_float32(weight.flatten(1))
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    norm = torch.where(norm > 0, norm, math.inf)
    rows = rows * (gain.reshape(-1, 1).to(rows.dtype) / norm)
    return rows.view(weight.shape).to(weight.dtype)


@dataclass(frozen=True)
class Normalize(WeightFunction):
    r"""Length and direction of every filter apart: the formula at the top of this module.

    The gradients, with :math:`h` that of :math:`W_o` and :math:`v = V_o / \lVert V_o \rVert`, are

    .. math:: \frac{g_o}{\lVert V_o \rVert}\left[h - v \sum h\,v\right] \text{ for } V_o, \qquad
        \sum h\,v \text{ for } g_o

    (the paper's eq. 3 and 4). A filter of zeros has no direction: it stays, with zero gradients.
    """

    # The base stands for any stored tensors.
    def __call__(self, weight: Tensor, gain: Tensor) -> Tensor:  # type: ignore[override]
        return normalize(weight, gain)

    @staticmethod
    def norms(weight: Tensor) -> Tensor:
        """Return the Euclidean norm of every filter, :math:`(O)`, in float32 at least."""
        return torch.linalg.vector_norm(at_least_float32(weight.flatten(1)), dim=1)

    def evaluate(self, *stored: Unpack[Stored]) -> tuple[Tensor, Sequence[Tensor]]:
        (out,), kept = self.evaluate_all([stored])
        return out, kept

    def gradients(
        self, grad: Tensor, needs: Sequence[bool], kept: Sequence[Tensor], *stored: Unpack[Stored]
    ) -> Gradients:
        return self.gradients_all([grad], needs, kept, [stored])[0]

    def evaluate_all(
        self, stored: Sequence[Stored], dtype: torch.dtype | None = None
    ) -> tuple[list[Tensor], Sequence[Tensor]]:
        rows, gains, _ = kernel_arguments(stored)
        made = kernels.normalize(rows, gains, dtype or stored[0][0].dtype)
        outs = [from_rows(out, tensors[0]) for out, tensors in zip(made, stored)]
        return outs, made[len(rows) :]

    def gradients_all(
        self, grads: Sequence[Tensor], needs: Sequence[bool], kept: Sequence[Tensor],
        stored: Sequence[Stored],
    ) -> list[Gradients]:  # fmt: skip
        rows, gains, _ = kernel_arguments(stored)
        grads = [grad_to_rows(grad, tensors[0]) for grad, tensors in zip(grads, stored)]
        made = kernels.normalize_backward(grads, rows, gains, kept, [*needs])
        return kernel_gradients(made, needs, stored)


def normalize_weight(v: Tensor, g: Tensor) -> Tensor:
    r"""Give every filter the length ``g`` and the direction of ``v`` (Weight Normalization).

    .. math:: W_o = g_o \frac{V_o}{\lVert V_o \rVert}

    `arXiv 1602.07868 <https://arxiv.org/abs/1602.07868>`_, eq. 2. Computed in float32 at least;
    see :class:`Normalize` for the gradients.

    Args:
        v: :math:`(O, \ldots)`, floating point.
        g: ``O`` elements in any shape, such as :math:`(O, 1, 1, 1)`.

    Returns:
        A tensor of the shape and dtype of ``v``.

    Raises:
        ValueError: if ``v`` has fewer than 2 dimensions or is not floating point, or if ``g`` has
            not ``O`` elements.
    """
    check_weight('normalize_weight', v)
    if g.numel() != v.shape[0]:
        raise ValueError(f'g needs one element for each of {v.shape[0]} filters, got {g.numel()}')
    return apply(Normalize(), v, g)
