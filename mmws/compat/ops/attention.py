"""Multi-scale deformable attention under the names of MMCV's compiled ops.

Source: Zhu et al., 2021, https://arxiv.org/abs/2010.04159, eq. 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dtypes import upcast

__all__ = ['ms_deform_attn_backward', 'ms_deform_attn_forward']


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Attend to sampled points of all levels.

    MMCV calls this op on GPUs only; on a CPU it uses the same PyTorch function as this op. It reads
    the shapes of the levels, which is one synchronization with the GPU a call, samples each level
    with ``grid_sample`` and keeps the samples, (B · M, D, queries, L · points), where the compiled
    op keeps nothing. Below, M heads of D channels, L levels, S = Σ H_l · W_l.

    Args:
        value: (B, S, M, D).
        value_spatial_shapes: height and width of each level, (L, 2) int64.
        value_level_start_index: follows from the shapes; unused, as is ``im2col_step``.
        sampling_locations: (B, queries, M, L, points, 2), (x, y) in [0, 1].
        attention_weights: (B, queries, M, L, points).
        im2col_step: unused.

    Returns:
        (B, queries, M · D), of the dtype of ``value``.
    """
    # mmcv.ops imports this module, so it cannot be imported before the op is called.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    value_, locations, weights = map(upcast, (value, sampling_locations, attention_weights))
    shapes = value_spatial_shapes.tolist()
    return multi_scale_deformable_attn_pytorch(value_, shapes, locations, weights).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fill the three gradients, by computing the output again; arguments as in the forward op."""
    with torch.enable_grad():
        leaves = value_, locations, weights = tuple(
            upcast(t).detach().requires_grad_()
            for t in (value, sampling_locations, attention_weights)
        )
        output = ms_deform_attn_forward(
            value_, value_spatial_shapes, value_level_start_index, locations, weights, im2col_step
        )
    grads = torch.autograd.grad(output, leaves, upcast(grad_output))
    for buffer, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads):
        buffer.copy_(grad)
