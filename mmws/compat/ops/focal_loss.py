"""Focal losses under the names of MMCV's compiled ops.

Source: Lin et al., 2017, https://arxiv.org/abs/1708.02002, eq. 5. Inside logarithms, probabilities
are clamped to the smallest normal float32, as in MMCV, so the losses agree where they saturate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dtypes import upcast

__all__ = [
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
]

_FLT_MIN = torch.finfo(torch.float32).tiny


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=_FLT_MIN).log()


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Sigmoid focal loss of every class.

    Args:
        input: logits, (N, K).
        target: class of each row, (N,) int64; any number outside [0, K), such as MMDetection's K,
            is background.
        weight: of the class of each row, (K,), or no element for none. MMCV reads past its end for
            background; here background has weight 1.
        output: (N, K), filled with the losses.
        gamma: focusing parameter ≥ 0.
        alpha: weight of the foreground; the background has 1 − alpha.
    """
    p, positive, weights = _sigmoid_focal_terms(input, target, weight)
    loss_p = -alpha * (1 - p) ** gamma * _log(p)
    loss_n = -(1 - alpha) * p**gamma * _log(1 - p)
    output.copy_(weights * torch.where(positive, loss_p, loss_n))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input``, (N, K), with d loss / d logit; arguments as in the forward op."""
    p, positive, weights = _sigmoid_focal_terms(input, target, weight)
    grad_p = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * _log(p))
    grad_n = -(1 - alpha) * p**gamma * (gamma * (1 - p) * _log(1 - p) - p)
    grad_input.copy_(weights * torch.where(positive, grad_p, grad_n))


def _sigmoid_focal_terms(
    input: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return probabilities (N, K), whether it is the class of the row (N, K), weights (N, 1)."""
    p = upcast(input).sigmoid()
    positive = target[:, None] == torch.arange(p.shape[1], device=p.device)
    return p, positive, _class_weights(target, weight, p)[:, None]


def _class_weights(target: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """Return the weight of the class of each row, 1 for rows without class: (N,)."""
    n, num_classes = like.shape
    if weight.numel() == 0:
        return like.new_ones(n)
    known = (target >= 0) & (target < num_classes)
    return weight.to(like.dtype)[target.clamp(0, num_classes - 1)].masked_fill(~known, 1)


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Softmax focal loss: −alpha (1 − p)^gamma log p, p the probability of the row's class.

    Args:
        input: probabilities, that is, after the softmax, (N, K).
        target: class of each row, (N,) int64; rows with a number outside [0, K) give 0.
        weight: of the class of each row, (K,), or no element for none.
        output: (N,), filled with the losses.
        gamma: focusing parameter ≥ 0.
        alpha: weight of the whole loss.
    """
    p, scale = _softmax_focal_terms(input, target, weight, alpha)
    output.copy_(-scale * (1 - p) ** gamma * _log(p))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill ``grad_input``, (N, K), with d loss / d logit; arguments as in the forward op.

    ``buff`` is scratch space of MMCV and is not used.
    """
    p, scale = _softmax_focal_terms(input, target, weight, alpha)
    # p · d loss / d p. The clamp keeps gamma < 1 finite where p is 1.
    slope = gamma * (1 - p).clamp(min=_FLT_MIN) ** (gamma - 1) * p * _log(p) - (1 - p) ** gamma
    one_hot = target[:, None] == torch.arange(input.shape[1], device=input.device)
    grad_input.copy_((scale * slope)[:, None] * (one_hot.to(p.dtype) - upcast(input)))


def _softmax_focal_terms(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Return the probability of each row's class and the factor of its loss, 0 without class."""
    probs = upcast(input)
    num_classes = probs.shape[1]
    known = (target >= 0) & (target < num_classes)
    p = probs.gather(1, target.clamp(0, num_classes - 1)[:, None])[:, 0]
    return p, alpha * known * _class_weights(target, weight, probs)
