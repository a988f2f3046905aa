"""The two steps of a masked convolution under the names of MMCV's compiled ops.

A masked convolution computes the output in marked pixels only: guided anchoring (Wang et al., 2019,
https://arxiv.org/abs/1901.03278, section 3.5) predicts where the anchors are. MMCV multiplies the
weight with the patches of these pixels between the two steps. The result has no gradient, in MMCV
as here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ['masked_col2im_forward', 'masked_im2col_forward']


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Take the patches around the marked pixels, with zeros outside of the image.

    Args:
        im: (1, C, H, W).
        mask_h_idx: y of the marked output pixels, (M,) int64.
        mask_w_idx: x of the marked output pixels, (M,) int64.
        col: (C · kh · kw, M), filled.
        kernel_h: kh.
        kernel_w: kw.
        pad_h: Zeros above and below the image.
        pad_w: Zeros to the left and the right.
    """
    padded = pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    ys = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]  # (kh, M)
    xs = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]  # (kw, M)
    col.copy_(padded[:, ys[:, None], xs].reshape(col.shape))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Put the outputs of the marked pixels into an image.

    Args:
        col: (C, M).
        mask_h_idx: y of the marked pixels, (M,) int64.
        mask_w_idx: x of the marked pixels, (M,) int64.
        im: (1, C, H, W), filled at the marked pixels and left alone elsewhere.
        height: H.
        width: W.
        channels: C.
    """
    im[0, :, mask_h_idx, mask_w_idx] = col.to(im.dtype)
