"""What the tests of MMCV's ops share: devices, rois, interpolation, comparison of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmws.compat import ops_are_compiled

COMPILED = ops_are_compiled()
DEVICES = ['cpu', *['cuda'] * torch.cuda.is_available()]
HALF = [torch.float16, torch.bfloat16]
F64 = {'dtype': torch.float64}

only_fallback = pytest.mark.skipif(COMPILED, reason='compiled MMCV differs here')

# Inside, partly outside on either side, wholly outside, without area, larger than the image.
ROIS = [
    [0, 3.3, 2.1, 15.7, 12.9],
    [1, -9.1, -5.3, 7.7, 6.1],
    [1, 10.2, 8.4, 31.3, 27.9],
    [0, 50.1, 60.2, 70.3, 80.4],
    [0, 6.0, 6.0, 6.0, 6.0],
    [1, -3.3, -4.1, 40.2, 38.7],
]


def bilinear(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """`image` (C, H, W), zero outside, at the point (y, x): (C,); differentiable."""
    height, width = image.shape[1:]
    value = torch.zeros(image.shape[0], **F64)
    if not (-1 < y < height and -1 < x < width):
        return value
    top, left = math.floor(y.item()), math.floor(x.item())
    for i, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for j, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= i < height and 0 <= j < width:
                value = value + image[:, i, j] * weight_y * weight_x
    return value


def compare(
    run: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: list[Tensor],
    device: str,
) -> None:
    """Assert equal outputs and equal gradients of all `inputs` under a random output gradient."""
    actual_inputs = [t.detach().to(device).requires_grad_() for t in inputs]
    inputs = [t.detach().requires_grad_() for t in inputs]
    actual, expected = run(*actual_inputs), reference(*inputs)
    torch.testing.assert_close(actual.cpu(), expected)
    grad = torch.randn_like(expected)
    actual_grads = torch.autograd.grad(actual, actual_inputs, grad.to(device))
    for actual_grad, expected_grad in zip(
        actual_grads, torch.autograd.grad(expected, inputs, grad)
    ):
        torch.testing.assert_close(actual_grad.cpu(), expected_grad)
