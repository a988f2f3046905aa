"""The backward operators of torchvision, which have no public name.

torchvision registers a forward and a backward operator for each of its layers and publishes the
forward one. MMCV asks for the two separately. Where an installed torchvision has no operator of
the known name, autograd computes the same gradient through the public function, which costs one
more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torchvision.ops  # registers torch.ops.torchvision
from torch import Tensor

if TYPE_CHECKING:
    from .deform import DeformGeometry


def _operator(name: str) -> Callable[..., Any] | None:
    return getattr(torch.ops.torchvision, name, None)


def roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    size: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Return the gradient of the input of :func:`torchvision.ops.roi_align`.

    Args:
        grad: Gradient of the output, (R, C, ph, pw).
        rois: (R, 5), image index and (x1, y1, x2, y2).
        size: (B, C, H, W) of the input.
        spatial_scale: As in the forward function, like all arguments that follow.
        sampling_ratio: See above.
        aligned: See above.

    Returns:
        (B, C, H, W), of the dtype of ``grad``.
    """
    bins = tuple(grad.shape[2:])
    operator = _operator('_roi_align_backward')
    if operator is not None:
        return operator(grad, rois, spatial_scale, *bins, *size, sampling_ratio, aligned)
    with torch.enable_grad():
        # The output is linear in the input, so any input gives the gradient.
        input = grad.new_zeros(size, requires_grad=True)
        output = torchvision.ops.roi_align(
            input, rois, bins, spatial_scale, sampling_ratio, aligned
        )
    return torch.autograd.grad(output, input, grad)[0]


def deform_conv2d_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: DeformGeometry,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """Return the gradients of :func:`torchvision.ops.deform_conv2d`.

    Args:
        grad: Gradient of the output, (B, O, Ho, Wo).
        input: (B, C, H, W); like the tensors that follow, contiguous and of the dtype of ``grad``.
        weight: (O, C / groups, kh, kw).
        offset: (B, G · kh · kw · 2, Ho, Wo).
        mask: (B, G · kh · kw, Ho, Wo), or None.
        geometry: Strides, paddings, dilations and groups.

    Returns:
        The gradients of the input, weight, offset, mask (None without a mask) and bias.
    """
    bias = weight.new_zeros(weight.shape[0])
    operator = _operator('_deform_conv2d_backward')
    if operator is None:
        return _deform_conv2d_gradients(grad, input, weight, offset, mask, bias, geometry)
    stride, padding, dilation, groups, offset_groups = geometry
    options = (*stride, *padding, *dilation, groups, offset_groups, mask is not None)
    placeholder = input.new_zeros(input.shape[0], 1) if mask is None else mask
    grads = operator(grad, input, weight, offset, placeholder, bias, *options)
    return grads[0], grads[1], grads[2], None if mask is None else grads[3], grads[4]


def _deform_conv2d_gradients(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor,
    geometry: DeformGeometry,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    tensors = [input, weight, offset, bias] + ([] if mask is None else [mask])
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in tensors]
        output = torchvision.ops.deform_conv2d(
            leaves[0],
            leaves[2],
            leaves[1],
            leaves[3],
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            None if mask is None else leaves[4],
        )
    grads = torch.autograd.grad(output, leaves, grad)
    return grads[0], grads[1], grads[2], None if mask is None else grads[4], grads[3]
