"""Deformable convolution under the names of MMCV's compiled ops; see :mod:`mmws.compat.deform`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmws.compat.deform import DeformGeometry, deform_conv2d, deform_conv2d_backward

__all__ = [
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
]


def _add_grads(
    buffers: Sequence[Tensor | None],
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: DeformGeometry,
) -> None:
    """Put the gradients into MMCV's buffers; a buffer that is None is not wanted.

    MMCV adds to the gradients of the input, weight and bias, and overwrites those of the offset
    and mask.
    """
    grads = deform_conv2d_backward(grad_output, input, weight, offset, mask, geometry)
    added = (True, True, False, False, True)
    for buffer, grad, add in zip(buffers, grads, added):
        if buffer is not None and grad is not None:
            buffer.add_(grad) if add else buffer.copy_(grad)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution.

    Args:
        input: (B, C, H, W).
        weight: (O, C / group, kh, kw).
        offset: (B, G · kh · kw · 2, Ho, Wo), in feature pixels.
        output: (B, O, Ho, Wo), filled.
        columns: scratch space of MMCV, unused, as are ``ones`` and ``im2col_step``.
        ones: unused.
        kW: kw; as in the rest, W is along x and H along y.
        kH: kh.
        dW: stride.
        dH: stride.
        padW: padding.
        padH: padding.
        dilationW: dilation.
        dilationH: dilation.
        group: groups of the convolution.
        deformable_group: G.
        im2col_step: unused.
    """
    geometry = DeformGeometry(
        (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    output.copy_(deform_conv2d(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add to ``gradInput`` and fill ``gradOffset``; arguments as in the forward op."""
    geometry = DeformGeometry(
        (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    buffers = (gradInput, None, gradOffset, None, None)
    _add_grads(buffers, gradOutput, input, weight, offset, None, geometry)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the gradient to ``gradWeight``; other arguments as in the forward op."""
    geometry = DeformGeometry(
        (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    # The gradient of the weight does not depend on the weight, which MMCV does not pass.
    weight = torch.zeros_like(gradWeight)
    grads = deform_conv2d_backward(gradOutput, input, weight, offset, None, geometry)
    gradWeight += scale * grads[1]


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Modulated deformable convolution.

    Args:
        input: (B, C, H, W).
        weight: (O, C / group, kh, kw).
        bias: (O,), or a placeholder if not ``with_bias``.
        ones: scratch space of MMCV, unused, as is ``columns``.
        offset: (B, G · kh · kw · 2, Ho, Wo), in feature pixels; or finer than the output, and the
            first values of each image are read.
        mask: modulation, (B, G · kh · kw, Ho, Wo), or finer.
        output: (B, O, Ho, Wo), filled.
        columns: unused.
        kernel_h: kh.
        kernel_w: kw.
        stride_h: along y.
        stride_w: along x.
        pad_h: along y.
        pad_w: along x.
        dilation_h: along y.
        dilation_w: along x.
        group: groups of the convolution.
        deformable_group: G.
        with_bias: whether to add ``bias``.
    """
    geometry = DeformGeometry(
        (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    output.copy_(deform_conv2d(input, weight, offset, mask, bias if with_bias else None, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add to the gradients of the input, weight and bias; fill those of the offset and mask.

    Other arguments as in the forward op.
    """
    geometry = DeformGeometry(
        (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    buffers = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias if with_bias else None)
    _add_grads(buffers, grad_output, input, weight, offset, mask, geometry)
