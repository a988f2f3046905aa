"""CARAFE upsampling under the names of MMCV's compiled ops.

Source: Wang et al., 2019, https://arxiv.org/abs/1905.02188, eq. 2: with r = (k − 1) / 2, scale σ
and the kernels W that the network predicts for each output pixel,

    X'[c, y, x] = Σ_{i, j = −r … r} W[g(c), i, j, y, x] · X[c, ⌊y / σ⌋ + i, ⌊x / σ⌋ + j],

X being 0 outside of the image. The sum runs over the k² taps, one at a time: no tensor is larger
than the output, and each tap is one multiplication of all pixels.

Shapes: features (B, C, H, W), masks (B, G · k², σH, σW), output (B, C, σH, σW), for kernel size k
and G groups of channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from .dtypes import upcast

__all__ = ['carafe_backward', 'carafe_forward', 'carafe_naive_backward', 'carafe_naive_forward']


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Reassemble the features.

    Args:
        features: (B, C, H, W).
        masks: Kernels, (B, G · k², σH, σW).
        output: (B, C, σH, σW), filled.
        kernel_size: k, odd.
        group_size: G, the number of groups of channels, which share a kernel.
        scale_factor: σ.
    """
    dtype = torch.promote_types(upcast(features).dtype, upcast(masks).dtype)
    kernels = _per_tap(masks.to(dtype), kernel_size, group_size, scale_factor)
    total = _blocks(output.to(dtype), group_size, scale_factor).zero_()
    padded = _padded(features.to(dtype), kernel_size)
    for tap, window in _windows(padded, features.shape, kernel_size):
        total.addcmul_(_grouped(window, group_size), kernels[:, :, tap])
    output.copy_(total.reshape(output.shape))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fill the gradients of the features and the kernels.

    Args:
        top_grad: Gradient of the output, (B, C, σH, σW).
        features: As in the forward op, like all arguments that are not named here.
        masks: See above.
        bottom_grad: Gradient of the features, (B, C, H, W), filled.
        mask_grad: Gradient of the kernels, (B, G · k², σH, σW), filled.
        kernel_size: See above.
        group_size: See above.
        scale_factor: See above.
    """
    dtype = torch.promote_types(upcast(features).dtype, upcast(masks).dtype)
    kernels = _per_tap(masks.to(dtype), kernel_size, group_size, scale_factor)
    grad = _blocks(top_grad.to(dtype), group_size, scale_factor)
    padded = _padded(features.to(dtype), kernel_size)
    grad_padded = torch.zeros_like(padded)
    grad_kernels = torch.empty_like(kernels)
    windows = _windows(padded, features.shape, kernel_size)
    grad_windows = _windows(grad_padded, features.shape, kernel_size)
    for (tap, window), (_, grad_window) in zip(windows, grad_windows):
        grad_kernels[:, :, tap] = (grad * _grouped(window, group_size)).sum(2, keepdim=True)
        grad_window += (grad * kernels[:, :, tap]).sum((4, 6)).flatten(1, 2)
    margin = kernel_size // 2
    height, width = features.shape[2:]
    bottom_grad.copy_(grad_padded[:, :, margin : margin + height, margin : margin + width])
    mask_grad.copy_(grad_kernels.reshape(mask_grad.shape))


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Reassemble the features, as :func:`carafe_naive_forward` does.

    Args:
        features: As there, like all arguments that are not named here.
        masks: See above.
        rfeatures: (B, C, H, W), filled with what :func:`carafe_backward` reads: the features.
        routput: Scratch space of MMCV, unused, as is ``rmasks``.
        rmasks: Unused.
        output: See above.
        kernel_size: See above.
        group_size: See above.
        scale_factor: See above.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fill the gradients, as :func:`carafe_naive_backward` does.

    Args:
        top_grad: As there, like all arguments that are not named here.
        rfeatures: The features that the forward op has kept.
        masks: See above.
        rtop_grad: Scratch space of MMCV, unused, as are the three tensors that follow.
        rbottom_grad_hs: Unused.
        rbottom_grad: Unused.
        rmask_grad: Unused.
        bottom_grad: See above.
        mask_grad: See above.
        kernel_size: See above.
        group_size: See above.
        scale_factor: See above.
    """
    carafe_naive_backward(
        top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor
    )


def _blocks(x: Tensor, groups: int, scale: int) -> Tensor:
    """Return (B, C, σH, σW) as (B, G, C / G, H, σ, W, σ)."""
    return x.unflatten(3, (-1, scale)).unflatten(2, (-1, scale)).unflatten(1, (groups, -1))


def _per_tap(masks: Tensor, kernel_size: int, groups: int, scale: int) -> Tensor:
    """Return the kernels as (B, G, k², 1, H, σ, W, σ)."""
    return _blocks(masks, groups, scale).unflatten(2, (kernel_size**2, 1))


def _grouped(window: Tensor, groups: int) -> Tensor:
    """Return (B, C, H, W) as (B, G, C / G, H, 1, W, 1)."""
    return window.unflatten(1, (groups, -1))[:, :, :, :, None, :, None]


def _padded(features: Tensor, kernel_size: int) -> Tensor:
    return pad(features, [kernel_size // 2] * 4)


def _windows(padded: Tensor, shape: torch.Size, kernel_size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield for each tap its index i · k + j and the padded image, shifted: a (B, C, H, W) view."""
    height, width = shape[2:]
    for i in range(kernel_size):
        for j in range(kernel_size):
            yield i * kernel_size + j, padded[:, :, i : i + height, j : j + width]
