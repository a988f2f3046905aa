"""RoIAlign under the names of MMCV's compiled ops, average and max.

Source: He et al., 2017, https://arxiv.org/abs/1703.06870, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.ops import roi_align

from mmws.compat import torchvision_ops

from .dtypes import upcast

__all__ = ['roi_align_backward', 'roi_align_forward']


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign.

    Args:
        input: feature map, (B, C, H, W).
        rois: (R, 5).
        output: (R, C, ph, pw), filled.
        argmax_y: max mode: (R, C, ph, pw), filled with the row, within its bin, of the sample that
            was taken (not its coordinate, which half precision could not hold). A bin without
            samples (a roi without area, adaptive sampling) gives 0 and has no gradient.
        argmax_x: likewise, the column.
        aligned_height: ph.
        aligned_width: pw.
        spatial_scale: feature pixels per image pixel.
        sampling_ratio: samples per side of a bin; ≤ 0 takes ⌈roi side / bins⌉.
        pool_mode: 0 max, 1 average.
        aligned: shift by half a pixel; otherwise rois are at least one feature pixel wide and high.
    """
    x = upcast(input)
    rois = rois.to(x.dtype)
    ph, pw = aligned_height, aligned_width
    if pool_mode == 1:
        output.copy_(roi_align(x, rois, (ph, pw), spatial_scale, sampling_ratio, aligned))
        return
    for index, gh, gw in sample_grids(rois, ph, pw, spatial_scale, sampling_ratio, aligned):
        # Pooling to gh × gw times as many bins, of one sample each, gives the samples themselves.
        samples = roi_align(x, rois[index], (ph * gh, pw * gw), spatial_scale, 1, aligned)
        samples = samples.unflatten(3, (pw, gw)).unflatten(2, (ph, gh)).transpose(3, 4)
        value, k = samples.flatten(4).max(4)
        output[index] = value.to(output.dtype)
        argmax_y[index] = (k // gw).to(argmax_y.dtype)
        argmax_x[index] = (k % gw).to(argmax_x.dtype)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input``, (B, C, H, W).

    Takes the arguments of the forward op and the gradient of its output, (R, C, ph, pw).
    """
    grad = upcast(grad_output)
    rois = rois.to(grad.dtype)
    ph, pw = aligned_height, aligned_width
    if pool_mode == 1:
        grad_input += torchvision_ops.roi_align_backward(
            grad, rois, grad_input.shape, spatial_scale, sampling_ratio, aligned
        )
        return
    for index, gh, gw in sample_grids(rois, ph, pw, spatial_scale, sampling_ratio, aligned):
        k = argmax_y[index].long() * gw + argmax_x[index].long()
        samples = grad.new_zeros(*k.shape, gh * gw).scatter_(
            4, k[..., None], grad[index, ..., None]
        )
        samples = samples.unflatten(4, (gh, gw)).transpose(3, 4).flatten(4).flatten(2, 3)
        grad_input += torchvision_ops.roi_align_backward(
            samples, rois[index], grad_input.shape, spatial_scale, 1, aligned
        )


def sample_grids(
    rois: Tensor, ph: int, pw: int, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> Iterator[tuple[Tensor, int, int]]:
    """Yield (indices of rois, gh, gw): the rois that have gh × gw samples in each bin."""
    shift = 0.5 if aligned else 0.0
    corners = rois[:, 1:] * spatial_scale - shift
    sides = (corners[:, 2:] - corners[:, :2]).flip(1)  # (R, 2): height, width
    if not aligned:
        sides = sides.clamp(min=1)
    grids = torch.ceil(sides / sides.new_tensor([ph, pw])).long()
    if sampling_ratio > 0:
        grids.fill_(sampling_ratio)
    for gh, gw in grids.unique(dim=0).tolist():
        if gh > 0 and gw > 0:
            yield (grids == grids.new_tensor([gh, gw])).all(1).nonzero()[:, 0], gh, gw
