"""RoI max pooling under the names of MMCV's compiled ops.

Source: Girshick, 2015, https://arxiv.org/abs/1504.08083, section 2.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .dtypes import upcast

__all__ = ['roi_pool_backward', 'roi_pool_forward']


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoI max pooling.

    MMCV's definition is not torchvision's: corners include their pixel, so a roi spans
    [x1, x2 + 1) · spatial_scale, and are not rounded; each bin covers the pixels from the floor of
    its start to the ceiling of its end. Bins without pixels, and all bins of a roi without area,
    give 0 and have no gradient.

    Args:
        input: feature map, (B, C, H, W).
        rois: (R, 5).
        output: (R, C, ph, pw), filled.
        argmax: (R, C, ph, pw) int32, filled with the index y · W + x of the maximum, or −1.
        pooled_height: ph.
        pooled_width: pw.
        spatial_scale: feature pixels per image pixel.
    """
    x = upcast(input)
    rois = rois.to(x.dtype)
    height, width = x.shape[2:]
    low, high = rois[:, 1:3] * spatial_scale, (rois[:, 3:] + 1) * spatial_scale
    has_area = (high > low).all(1)
    x_low, x_high = _pool_bins(low[:, 0], high[:, 0], pooled_width, width)
    y_low, y_high = _pool_bins(low[:, 1], high[:, 1], pooled_height, height)
    # The largest bin of each roi, read back once for all of them.
    sizes = torch.stack([(y_high - y_low).amax(1), (x_high - x_low).amax(1)], 1)
    bin_sizes = (sizes * has_area[:, None]).tolist()

    output.zero_()
    argmax.fill_(-1)
    for r, (image, (bin_h, bin_w)) in enumerate(zip(rois[:, 0].long().tolist(), bin_sizes)):
        if bin_h <= 0 or bin_w <= 0:
            continue
        ys = y_low[r, :, None] + torch.arange(bin_h, device=x.device)  # (ph, bin_h)
        xs = x_low[r, :, None] + torch.arange(bin_w, device=x.device)  # (pw, bin_w)
        inside = (ys < y_high[r, :, None])[:, None, :, None] & (xs < x_high[r, :, None])[:, None]
        inside = inside.flatten(2)  # (ph, pw, bin_h · bin_w), as are the pixels
        pixels = ys.clamp(max=height - 1)[:, None, :, None] * width
        pixels = (pixels + xs.clamp(max=width - 1)[:, None]).flatten(2)

        values = x[image].flatten(1)[:, pixels].masked_fill(~inside, -math.inf)
        value, k = values.max(3)  # (C, ph, pw)
        pixel = pixels.expand(len(k), -1, -1, -1).gather(3, k[..., None])[..., 0]
        filled = inside.any(2)
        output[r] = value.masked_fill(~filled, 0).to(output.dtype)
        argmax[r] = pixel.masked_fill(~filled, -1).to(argmax.dtype)


def _pool_bins(low: Tensor, high: Tensor, bins: int, limit: int) -> tuple[Tensor, Tensor]:
    """Return first pixel and last pixel + 1 of each bin within [0, limit): (R, bins) int64 each."""
    size = ((high - low) / bins)[:, None]
    k = torch.arange(bins, device=low.device)
    first = torch.floor(k * size + low[:, None]).clamp(0, limit)
    last = torch.ceil((k + 1) * size + low[:, None]).clamp(0, limit)
    return first.long(), last.long()


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of :func:`roi_pool_forward` to ``grad_input``, (B, C, H, W).

    Takes the arguments of the forward op and the gradient of its output, (R, C, ph, pw).
    """
    _, channels, height, width = grad_input.shape
    grad = upcast(grad_output).masked_fill(argmax < 0, 0)
    channel = torch.arange(channels, device=grad.device)
    plane = (rois[:, :1].long() * channels + channel)[:, :, None, None]  # (R, C, 1, 1)
    pixel = plane * (height * width) + argmax.clamp(min=0)
    total = grad.new_zeros(grad_input.numel())
    total.index_add_(0, pixel.flatten(), grad.flatten())
    grad_input += total.view_as(grad_input)
