"""The private operators of torchvision, and what stands in where they are gone."""

import pytest
import torch

from mmws.compat import torchvision_ops
from mmws.compat.deform import DeformGeometry


@pytest.fixture
def without_operators(monkeypatch):
    return lambda: monkeypatch.setattr(torchvision_ops, '_operator', lambda name: None)


def test_the_operators_are_here():
    # If a release of torchvision renames them, the fallback is slower and nobody would notice.
    assert torchvision_ops._operator('_roi_align_backward') is not None
    assert torchvision_ops._operator('_deform_conv2d_backward') is not None
    assert torchvision_ops._operator('_an_operator_that_never_was') is None


@pytest.mark.parametrize('ratio', [0, 2])
def test_roi_align_without_the_operator(ratio, without_operators):
    torch.manual_seed(0)
    rois = torch.tensor([[0, 1.0, 2.0, 9.0, 7.0], [1, -3.0, 0.0, 4.0, 20.0]])
    arguments = (torch.randn(2, 3, 2, 4), rois, (2, 3, 6, 8), 0.5, ratio, True)
    expected = torchvision_ops.roi_align_backward(*arguments)
    without_operators()
    torch.testing.assert_close(torchvision_ops.roi_align_backward(*arguments), expected)


@pytest.mark.parametrize('with_mask', [False, True])
def test_deform_conv_without_the_operator(with_mask, without_operators):
    # Catches gradients in another order, and a mask that is left out.
    torch.manual_seed(0)
    geometry = DeformGeometry((2, 1), (1, 0), (1, 2), groups=2, offset_groups=2)
    x, weight = torch.randn(2, 4, 7, 8), torch.randn(6, 2, 3, 2)
    size = geometry.output_size(x, weight)
    offset, mask = torch.randn(2, 24, *size), torch.rand(2, 12, *size) if with_mask else None
    arguments = (torch.randn(2, 6, *size), x, weight, offset, mask, geometry)
    expected = torchvision_ops.deform_conv2d_backward(*arguments)
    without_operators()
    found = torchvision_ops.deform_conv2d_backward(*arguments)
    assert (found[3] is None) == (expected[3] is None) == (not with_mask)
    for one, other in zip(found, expected):
        if other is not None:
            torch.testing.assert_close(one, other)
