import itertools

import pytest
import torch
from mmcv.cnn.bricks.conv_ws import ConvWS2d as MMCVConvWS2d
from torch import nn

from mmws.layers import ConvWS2d


def standardize_by_hand(weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The paper's definition, filter by filter in float64."""
    out = torch.empty_like(weight, dtype=torch.float64)
    for i, w in enumerate(weight.double()):
        mean = w.sum() / w.numel()
        variance = ((w - mean) ** 2).sum() / (w.numel() - 1)
        out[i] = (w - mean) / (variance.sqrt() + eps)
    return out


@pytest.mark.parametrize(
    ('groups', 'padding_mode'),
    [*itertools.product([1, 2, 4], ['zeros', 'reflect', 'replicate', 'circular'])],
)
def test_convolves_with_the_standardized_filters(groups, padding_mode):
    # Bug: eps inside the root, biased variance, statistics over the wrong axes, or the padding
    # mode forgotten.
    torch.manual_seed(0)
    layer = ConvWS2d(4, 8, 3, 2, 1, groups=groups, padding_mode=padding_mode, eps=1e-2)
    plain = nn.Conv2d(4, 8, 3, 2, 1, groups=groups, padding_mode=padding_mode).double()
    plain.load_state_dict(layer.state_dict())
    with torch.no_grad():
        plain.weight.copy_(standardize_by_hand(layer.weight, 1e-2))
    x = torch.randn(2, 4, 7, 9)
    torch.testing.assert_close(layer(x).double(), plain(x.double()), rtol=1e-5, atol=1e-5)


def test_equals_mmcv_forward_and_backward():
    torch.manual_seed(0)
    ours, theirs = ConvWS2d(6, 8, 3, padding=1), MMCVConvWS2d(6, 8, 3, padding=1)
    assert ours.eps == theirs.eps == 1e-5
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 8, 8)
    upstream = torch.randn(2, 8, 8, 8)
    outputs = [layer(x) for layer in (ours, theirs)]
    for output in outputs:
        output.backward(upstream)
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-5)
