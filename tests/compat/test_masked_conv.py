"""Masked convolution against the ordinary one."""

from importlib import import_module

import pytest
import torch
from torch.nn import functional as F

import mmws  # noqa: F401  (provides mmcv._ext)
from tests.helpers.op_cases import COMPILED, DEVICES

ops = import_module('mmcv.ops')  # after mmws, whatever the order of the imports above


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(
    ('kernel', 'padding'), [((1, 1), (0, 0)), ((3, 5), (1, 2)), ((3, 1), (1, 0))]
)
def test_marked_pixels_are_those_of_the_convolution_and_others_are_0(
    kernel, padding, device, monkeypatch
):
    # Catches rows mixed up with columns, wrong padding, and weights in another order.
    if COMPILED and device == 'cpu':
        pytest.skip('compiled MMCV has this op on GPUs only')
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    torch.manual_seed(0)
    layer = ops.MaskedConv2d(3, 4, kernel, padding=padding).to(device)
    x = torch.randn(1, 3, 7, 9, device=device)
    mask = torch.rand(1, 7, 9, device=device) < 0.4
    mask[0, 0, 0] = mask[0, -1, -1] = True  # corners, whose patches reach outside
    expected = F.conv2d(x, layer.weight, layer.bias, padding=padding) * mask
    torch.testing.assert_close(layer(x, mask), expected)
    assert not layer(x, torch.zeros_like(mask)).any()


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_patches_are_those_of_unfold(dtype):
    import mmcv._ext

    if COMPILED:
        pytest.skip('compiled MMCV has this op on GPUs only')
    x = torch.randn(1, 3, 5, 6).to(dtype)
    ys, xs = torch.tensor([0, 4, 2]), torch.tensor([5, 0, 3])
    col = torch.full((3 * 3 * 5, 3), 7.0, dtype=dtype)
    mmcv._ext.masked_im2col_forward(x, ys, xs, col, kernel_h=3, kernel_w=5, pad_h=1, pad_w=2)
    expected = F.unfold(x.double(), (3, 5), padding=(1, 2))[0, :, ys * 6 + xs]
    torch.testing.assert_close(col.double(), expected)
    image = torch.full((1, 45, 5, 6), 7.0, dtype=dtype)
    mmcv._ext.masked_col2im_forward(col, ys, xs, image, height=5, width=6, channels=45)
    torch.testing.assert_close(image[0, :, ys, xs], col)
    assert (image == 7).sum() >= 45 * 27  # the other pixels are left alone
