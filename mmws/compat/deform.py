"""Deformable convolution with torchvision's operator and the semantics of MMCV's compiled one.

Deformable convolution (Dai et al., 2017, https://arxiv.org/abs/1703.06211, eq. 2) samples the input
at offsets from the regular grid of a convolution; its modulated form (Zhu et al., 2018,
https://arxiv.org/abs/1811.11168, eq. 1) also multiplies each sample by a mask. torchvision's
operator differs from MMCV's in three points, which the functions here even out:

- A NaN offset makes torchvision read arbitrary memory, which ends the process. MMCV takes such a
  point to be outside of the image, where the input is 0.
- The interpolated image has a kink where a coordinate is exactly −1. MMCV takes the derivative of
  the outside, 0; torchvision the one of the inside. With padding 1 and offsets that start at zero,
  as in DCNv2, the whole border lies on this kink.
- MMCV's modulated operator accepts offsets and masks that are finer than the output, and reads the
  first c · Ho · Wo values of each image. MMDetection's DyHead and GLIP depend on it. torchvision
  refuses them.

Shapes: B images, C input channels, O output channels, H × W pixels, Ho × Wo output pixels, kh × kw
kernel taps, G groups of offsets.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torchvision.ops
from torch import Tensor

from . import torchvision_ops

# In pixels. The coordinate stays far outside of every image and still fits in an int32, to which
# the operator converts it.
_FAR_AWAY = 1e9


class DeformGeometry(NamedTuple):
    """How a deformable convolution walks over its input; pairs are (y, x)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    offset_groups: int = 1

    def output_size(self, input: Tensor, weight: Tensor) -> tuple[int, int]:
        """Return (Ho, Wo) for an input (B, C, H, W) and a weight (O, C / groups, kh, kw)."""
        height, width = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                input.shape[2:], weight.shape[2:], self.stride, self.padding, self.dilation
            )
        )
        return height, width


def deform_conv2d(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: DeformGeometry,
) -> Tensor:
    """Apply a deformable convolution with MMCV's semantics.

    Half precision is computed in float32 and rounded once, because rounded offsets would be other
    offsets. Autograd does not see MMCV's gradients through this function: callers are
    :class:`torch.autograd.Function` objects whose backward is :func:`deform_conv2d_backward`.

    Args:
        input: (B, C, H, W).
        weight: (O, C / groups, kh, kw).
        offset: (B, G · kh · kw · 2, Ho, Wo) in pixels, y before x. With a mask it may be finer than
            the output: the first values of each image are read.
        mask: (B, G · kh · kw, Ho, Wo), or None. It may be finer than the output.
        bias: (O,), or None.
        geometry: Strides, paddings, dilations and groups.

    Returns:
        (B, O, Ho, Wo), of the dtype of ``input``.

    Raises:
        ValueError: if the input does not fit the weight, or the offset or the mask the output.
    """
    dtype = input.dtype
    input, weight, offset, mask = _operator_tensors(input, weight, offset, mask, geometry)
    output = torchvision.ops.deform_conv2d(
        input,
        offset,
        weight,
        None if bias is None else bias.to(input.dtype),
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        mask,
    )
    return output.to(dtype)


def deform_conv2d_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: DeformGeometry,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """Return the gradients of :func:`deform_conv2d`.

    Args:
        grad: Gradient of the output, (B, O, Ho, Wo).
        input: As in the forward function, like all arguments that follow.
        weight: See above.
        offset: See above.
        mask: See above.
        geometry: See above.

    Returns:
        The gradients of the input, weight, offset, mask (None without a mask) and bias, in the
        shape of each and in the dtype of the computation: float32 for half precision. Offsets and
        mask values that the forward function does not read have gradient 0.

    Raises:
        ValueError: if the input does not fit the weight, or the offset or the mask the output.
    """
    tensors = _operator_tensors(input, weight, offset, mask, geometry)
    grad_input, grad_weight, grad_offset, grad_mask, grad_bias = (
        torchvision_ops.deform_conv2d_backward(grad.to(tensors[0].dtype), *tensors, geometry)
    )
    grad_offset = _zero_where_outside(grad_offset, tensors[2], weight, geometry)
    return (
        grad_input,
        grad_weight,
        _padded_to(grad_offset, offset),
        None if mask is None or grad_mask is None else _padded_to(grad_mask, mask),
        grad_bias,
    )


def _operator_tensors(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: DeformGeometry,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the tensors that torchvision's operator takes, of one dtype."""
    # torchvision infers the groups from the channels, so it would take a wrong input for groups.
    channels = weight.shape[1] * geometry.groups
    if input.shape[1] != channels:
        raise ValueError(
            f'deformable convolution: the input has {input.shape[1]} channels, but the weight '
            f'{tuple(weight.shape)} in {geometry.groups} groups needs {channels}'
        )
    taps = geometry.offset_groups * weight.shape[2] * weight.shape[3]
    size = geometry.output_size(input, weight)
    offset = _first_values(offset, 2 * taps, size, mask is not None, 'offset')
    half = input.dtype in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if half else input.dtype
    if mask is not None:
        mask = _first_values(mask, taps, size, True, 'mask').to(dtype).contiguous()
    input, weight, offset = (t.to(dtype).contiguous() for t in (input, weight, offset))
    return input, weight, offset.nan_to_num(_FAR_AWAY).clamp(-_FAR_AWAY, _FAR_AWAY), mask


def _first_values(
    tensor: Tensor, channels: int, size: tuple[int, int], finer: bool, name: str
) -> Tensor:
    """Return the first channels · Ho · Wo values of each image as (B, channels, Ho, Wo)."""
    shape = (tensor.shape[0], channels, *size)
    if tensor.shape == shape:
        return tensor
    flat = tensor.flatten(1)
    count = channels * size[0] * size[1]
    if not finer or flat.shape[1] < count:
        raise ValueError(
            f'deformable convolution: the {name} has the shape {tuple(tensor.shape)}, but the '
            f'output needs {shape}'
        )
    return flat[:, :count].reshape(shape)


def _padded_to(grad: Tensor, like: Tensor) -> Tensor:
    """Undo :func:`_first_values` for a gradient: values that were not read get 0."""
    if grad.shape == like.shape:
        return grad
    padded = grad.new_zeros(like.shape[0], like[0].numel())
    padded[:, : grad[0].numel()] = grad.flatten(1)
    return padded.view(like.shape)


def _zero_where_outside(
    grad_offset: Tensor, offset: Tensor, weight: Tensor, geometry: DeformGeometry
) -> Tensor:
    """Return the gradient of the offset with 0 wherever a coordinate is exactly −1."""
    kernel = tuple(weight.shape[2:])
    size = offset.shape[2:]
    # (B, G, kh, kw, 2, Ho, Wo)
    split = (offset.shape[0], geometry.offset_groups, *kernel, 2, *size)
    offset = offset.view(split)
    on_border = torch.empty_like(offset, dtype=torch.bool)
    for axis in (0, 1):
        tap = torch.arange(kernel[axis], device=offset.device) * geometry.dilation[axis]
        pixel = torch.arange(size[axis], device=offset.device) * geometry.stride[axis]
        grid = (tap - geometry.padding[axis])[:, None] + pixel
        # The grid varies with kh and Ho along y, and with kw and Wo along x.
        grid = grid[:, None, :, None] if axis == 0 else grid[:, None, :]
        on_border[:, :, :, :, axis] = offset[:, :, :, :, axis] + grid == -1
    return grad_offset.masked_fill(on_border.view_as(grad_offset), 0)
