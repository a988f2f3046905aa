"""Deformable RoI pooling under the names of MMCV's compiled ops.

Source: Dai et al., 2017, https://arxiv.org/abs/1703.06211, section 2.2. Each bin of a roi moves by
its offset, times γ and the size of the roi, and is the mean of samples on a grid, as in RoIAlign.
The samples of a bin are computed one after another for all bins, so no tensor is larger than the
output.

MMCV has these ops on GPUs only. Its gradient of the offset differs from this one, which is the
derivative of the output, for samples less than a pixel outside of the top or the left edge: there
the output is constant, but MMCV extrapolates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .dtypes import upcast
from .roi_align import sample_grids

__all__ = ['deform_roi_pool_backward', 'deform_roi_pool_forward']


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Pool rois whose bins are moved.

    Args:
        input: Feature map, (B, C, H, W).
        rois: (R, 5).
        offset: (R, 2, ph, pw), x before y, in fractions of the roi; without elements for none.
        output: (R, C, ph, pw), filled. A roi without area that is sampled adaptively gives 0.
        pooled_height: ph.
        pooled_width: pw.
        spatial_scale: Feature pixels per image pixel.
        sampling_ratio: Samples per side of a bin; ≤ 0 takes ⌈roi side / bins⌉.
        gamma: Factor of the offset.
    """
    x = upcast(input)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])  # (B · H · W, C)
    bins = _Bins.of(rois, offset, x, pooled_height, pooled_width, spatial_scale, gamma)
    output.zero_()
    for index, gh, gw in sample_grids(bins.rois, *bins.shape, spatial_scale, sampling_ratio, True):
        total = x.new_zeros(len(index) * pooled_height * pooled_width, x.shape[1])
        for corners in _samples(bins, index, gh, gw, x.shape):
            for corner in corners:
                total.addcmul_(pixels[corner.pixel], corner.weight[:, None])
        mean = (total / (gh * gw)).view(len(index), pooled_height, pooled_width, -1)
        output[index] = mean.permute(0, 3, 1, 2).to(output.dtype)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add the gradients of :func:`deform_roi_pool_forward` to two buffers.

    Args:
        grad_output: Gradient of the output, (R, C, ph, pw).
        input: As in the forward op, like all arguments that are not named here.
        rois: See above.
        offset: See above.
        grad_input: (B, C, H, W), added to.
        grad_offset: (R, 2, ph, pw), added to; without elements if there is no offset.
        pooled_height: See above.
        pooled_width: See above.
        spatial_scale: See above.
        sampling_ratio: See above.
        gamma: See above.
    """
    x = upcast(input)
    batch, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
    grad_pixels = torch.zeros_like(pixels)
    bins = _Bins.of(rois, offset, x, pooled_height, pooled_width, spatial_scale, gamma)
    for index, gh, gw in sample_grids(bins.rois, *bins.shape, spatial_scale, sampling_ratio, True):
        grad = upcast(grad_output)[index].to(x.dtype).permute(0, 2, 3, 1).reshape(-1, channels)
        grad = grad / (gh * gw)
        grad_shift = x.new_zeros(2, len(grad))  # of y and x, in feature pixels
        for corners in _samples(bins, index, gh, gw, x.shape):
            for corner in corners:
                grad_pixels.index_add_(0, corner.pixel, grad * corner.weight[:, None])
                if offset.numel():
                    grad_shift += corner.slope * (grad * pixels[corner.pixel]).sum(1)
        if offset.numel():
            shape = (2, len(index), pooled_height, pooled_width)
            grad_xy = grad_shift.flip(0).view(shape).transpose(0, 1)
            scale = gamma * bins.sides[index].flip(1)[:, :, None, None]
            grad_offset[index] += (scale * grad_xy).to(grad_offset.dtype)
    grad_input += grad_pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)


class _Bins(NamedTuple):
    """The bins of all rois; the last dimension of 2 is y, x, in feature pixels."""

    rois: Tensor
    """(R, 5)"""
    start: Tensor
    """Top left corner of each bin, (R, ph, pw, 2)."""
    sides: Tensor
    """Height and width of each roi, (R, 2)."""
    shape: tuple[int, int]
    """(ph, pw)"""

    @classmethod
    def of(
        cls,
        rois: Tensor,
        offset: Tensor,
        like: Tensor,
        ph: int,
        pw: int,
        spatial_scale: float,
        gamma: float,
    ) -> _Bins:
        rois = rois.to(like.dtype)
        corners = rois[:, 1:] * spatial_scale - 0.5
        low = corners[:, :2].flip(1)
        sides = corners[:, 2:].flip(1) - low
        rows = torch.arange(ph, device=rois.device).to(rois)[:, None].expand(ph, pw)
        columns = torch.arange(pw, device=rois.device).to(rois).expand(ph, pw)
        size = sides / sides.new_tensor([ph, pw])
        start = low[:, None, None] + torch.stack([rows, columns], 2) * size[:, None, None]
        if offset.numel():
            shift = offset.to(rois).flip(1).permute(0, 2, 3, 1)  # (R, ph, pw, 2)
            start = start + gamma * sides[:, None, None] * shift
        return cls(rois, start, sides, (ph, pw))


class _Corner(NamedTuple):
    """One of the four pixels around a sample of each of P bins."""

    pixel: Tensor
    """Row of the table of all pixels, (P,) int64."""
    weight: Tensor
    """Bilinear weight, (P,)."""
    slope: Tensor
    """Derivative of the weight by y and by x, (2, P)."""


def _samples(
    bins: _Bins, index: Tensor, gh: int, gw: int, shape: torch.Size
) -> Iterator[list[_Corner]]:
    """Yield for each of the gh × gw samples of a bin the pixels around it, for P bins at once."""
    size = bins.sides[index] / bins.sides.new_tensor(bins.shape)
    images = bins.rois[index, 0].long()[:, None, None].expand(-1, *bins.shape).flatten()
    for i in range(gh):
        for j in range(gw):
            step = size * size.new_tensor([(i + 0.5) / gh, (j + 0.5) / gw])
            point = bins.start[index] + step[:, None, None]
            yield _corners(images, point.flatten(0, 2), shape)


def _corners(images: Tensor, point: Tensor, shape: torch.Size) -> list[_Corner]:
    """Return the pixels around the points (P, 2): edges extend by one pixel, then zero."""
    height, width = shape[2:]
    limit = point.new_tensor([height - 1, width - 1])
    inside = ((point >= -1) & (point <= limit + 1)).all(1)
    point = point.masked_fill(~inside[:, None], 0)
    # The derivative is that of the output: 0 where a coordinate is clamped.
    moves = (inside[:, None] & (point >= 0) & (point < limit)).to(point.dtype)
    point = point.clamp(min=0).minimum(limit)
    low = point.floor()
    far = point - low  # weight of the pixel below, to the right
    low = low.long()
    high = (low + 1).minimum(limit.long())
    present = inside.to(point.dtype)
    corners = []
    for y, weight_y, sign_y in ((low, 1 - far, -1), (high, far, 1)):
        for x, weight_x, sign_x in ((low, 1 - far, -1), (high, far, 1)):
            wy, wx = weight_y[:, 0], weight_x[:, 1]
            slope = torch.stack([sign_y * wx * moves[:, 0], sign_x * wy * moves[:, 1]])
            pixel = (images * height + y[:, 0]) * width + x[:, 1]
            corners.append(_Corner(pixel, wy * wx * present, slope))
    return corners
