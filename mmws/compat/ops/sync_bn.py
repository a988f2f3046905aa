"""The steps of MMCV's synchronized batch normalization (``MMSyncBN``) under their compiled names.

MMCV adds up the statistics of all processes between the steps. Statistics, normalized values and
parameters are float32 also for a half-precision input.

Shapes: input, output and their gradients (B, C, S) for S pixels; everything of a channel (C,).
"""

from __future__ import annotations

from torch import Tensor

from .dtypes import upcast

__all__ = [
    'sync_bn_backward_data',
    'sync_bn_backward_param',
    'sync_bn_forward_mean',
    'sync_bn_forward_output',
    'sync_bn_forward_var',
]


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Fill ``mean`` with the mean of each channel."""
    mean.copy_(upcast(input).mean((0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Fill ``var`` with the mean squared distance of each channel from ``mean``."""
    var.copy_((upcast(input) - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Normalize, and update the running statistics.

    Args:
        input: (B, C, S).
        mean: Of all processes.
        var: Of all processes, biased.
        weight: Scale of each channel, or None.
        bias: Shift of each channel, or None.
        running_mean: Updated in place, or None.
        running_var: Updated in place with the unbiased variance, or None.
        norm: (B, C, S), filled with the normalized values.
        std: Filled with √(var + eps).
        output: (B, C, S), filled with norm · weight + bias.
        eps: Added to the variance.
        momentum: Share of the new statistics. A tensor is not copied to the CPU.
        group_size: Number of processes, each with as many values as this one.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((upcast(input) - mean[:, None]) / std[:, None])
    scaled = norm if weight is None else norm * weight[:, None]
    output.copy_(scaled if bias is None else scaled + bias[:, None])
    if running_mean is not None:
        running_mean.copy_(momentum * mean + (1 - momentum) * running_mean)
    if running_var is not None:
        count = input.shape[0] * input.shape[2] * group_size
        unbiased = var * (count / (count - 1)) if count > 1 else var
        running_var.copy_(momentum * unbiased + (1 - momentum) * running_var)


def sync_bn_backward_param(
    grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor
) -> None:
    """Fill the gradients of the weight and the bias."""
    grad = upcast(grad_output)
    grad_weight.copy_((grad * norm).sum((0, 2)))
    grad_bias.copy_(grad.sum((0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Fill the gradient of the input.

    Args:
        grad_output: (B, C, S).
        weight: Scale of each channel.
        grad_weight: Gradient of the weight, the mean over the processes.
        grad_bias: Gradient of the bias, likewise.
        norm: (B, C, S), the normalized values.
        std: As the forward op has filled it.
        grad_input: (B, C, S), filled.
    """
    count = grad_output.shape[0] * grad_output.shape[2]
    projection = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((weight / std)[:, None] * (upcast(grad_output) - projection))
