"""Deformable RoI pooling through MMCV's functions against its definition, written as loops."""

import itertools
import math
from importlib import import_module

import pytest
import torch

import mmws  # noqa: F401  (provides mmcv._ext)
from tests.helpers.op_cases import COMPILED, DEVICES, F64, HALF, ROIS, compare, only_fallback

ops = import_module('mmcv.ops')  # after mmws, whatever the order of the imports above

pytestmark = pytest.mark.skipif(
    COMPILED and not torch.cuda.is_available(), reason='compiled MMCV has this op on GPUs only'
)


def interpolate(image, y, x):
    """`image` (C, H, W) at (y, x): edges extend by one pixel, then zero; differentiable."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(image.shape[0], **F64)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    rows = (1 - (y - torch.arange(height, **F64)).abs()).clamp(min=0)
    columns = (1 - (x - torch.arange(width, **F64)).abs()).clamp(min=0)
    return torch.einsum('chw,h,w->c', image, rows, columns)


def reference(x, rois, offset, size, scale, ratio, gamma):
    ph, pw = size
    bins = []
    for r, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (c * scale - 0.5 for c in corners)
        side_y, side_x = y2 - y1, x2 - x1
        gh, gw = ratio or math.ceil(side_y / ph), ratio or math.ceil(side_x / pw)
        for p, q in itertools.product(range(ph), range(pw)):
            samples = []
            for i, j in itertools.product(range(gh), range(gw)):
                y = y1 + side_y / ph * (p + (i + 0.5) / gh)
                x_ = x1 + side_x / pw * (q + (j + 0.5) / gw)
                shift_x, shift_y = offset[r, :, p, q] if offset is not None else (0, 0)
                y, x_ = y + gamma * side_y * shift_y, x_ + gamma * side_x * shift_x
                point = (torch.as_tensor(y, **F64), torch.as_tensor(x_, **F64))
                samples.append(interpolate(x[int(image)], *point))
            empty = torch.zeros(x.shape[1], **F64)
            bins.append(torch.stack(samples).mean(0) if samples else empty)
    return torch.stack(bins).view(len(rois), ph, pw, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('with_offset', [False, True])
def test_deform_roi_pool(with_offset, ratio, device):
    # Catches x mixed up with y in the offset, an offset in pixels instead of in fractions of the
    # roi, and a wrong grid of samples.
    if COMPILED:
        pytest.skip('the gradient of compiled MMCV differs at the border')
    torch.manual_seed(0)
    rois = torch.tensor(ROIS, **F64)
    rest = ((3, 2), 0.3, ratio, 0.4)
    inputs = [torch.randn(2, 3, 7, 9, **F64)]
    if with_offset:
        inputs.append(torch.randn(len(rois), 2, 3, 2, **F64))
    compare(
        lambda x, offset=None: ops.deform_roi_pool(x, rois.to(device), offset, *rest),
        lambda x, offset=None: reference(x, rois, offset, *rest),
        inputs,
        device,
    )


@only_fallback
def test_gradcheck():
    torch.manual_seed(1)
    rois = torch.tensor([ROIS[0], ROIS[1], ROIS[5]], **F64)
    x = torch.randn(2, 2, 7, 9, **F64, requires_grad=True)
    offset = torch.randn(3, 2, 2, 3, **F64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda x, offset: ops.deform_roi_pool(x, rois, offset, (2, 3), 0.3, 2, 0.4), [x, offset]
    )


@pytest.mark.parametrize('ratio', [0, 2])
def test_without_offset_it_is_roi_align(ratio):
    torch.manual_seed(0)
    device = DEVICES[-1]
    x, rois = torch.randn(2, 3, 7, 9, device=device), torch.tensor(ROIS, device=device)
    expected = ops.roi_align(x, rois, (3, 2), 0.3, ratio, 'avg', True)
    torch.testing.assert_close(ops.deform_roi_pool(x, rois, None, (3, 2), 0.3, ratio), expected)


@pytest.mark.parametrize('pack', ['DeformRoIPoolPack', 'ModulatedDeformRoIPoolPack'])
def test_packs_of_detectors(pack):
    # As roi extractors build them; offsets start at 0, and their layer must learn.
    device = DEVICES[-1]
    torch.manual_seed(0)
    layer = getattr(ops, pack)((3, 3), 4, deform_fc_channels=8, spatial_scale=0.3).to(device)
    x = torch.randn(2, 4, 7, 9, device=device, requires_grad=True)
    output = layer(x, torch.tensor(ROIS, device=device))
    assert output.shape == (len(ROIS), 4, 3, 3)
    output.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert layer.offset_fc[-1].weight.grad.abs().sum() > 0


def test_no_rois():
    device = DEVICES[-1]
    x = torch.randn(2, 4, 7, 9, device=device, requires_grad=True)
    offset = torch.zeros(0, 2, 3, 3, device=device, requires_grad=True)
    output = ops.deform_roi_pool(x, torch.zeros(0, 5, device=device), offset, (3, 3), 0.3)
    assert output.shape == (0, 4, 3, 3)
    output.sum().backward()
    assert not x.grad.any()


@only_fallback
@pytest.mark.parametrize('dtype', HALF)
def test_half_precision_is_rounded_once(dtype):
    torch.manual_seed(0)
    rois = torch.tensor(ROIS, dtype=dtype)
    half = [torch.randn(2, 3, 7, 9, dtype=dtype), torch.randn(len(ROIS), 2, 3, 2, dtype=dtype)]
    half = [t.requires_grad_() for t in half]
    full = [t.detach().float().requires_grad_() for t in half]
    rest = ((3, 2), 0.25, 2, 0.5)
    actual = ops.deform_roi_pool(half[0], rois, half[1], *rest)
    expected = ops.deform_roi_pool(full[0], rois.float(), full[1], *rest)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected.to(dtype), rtol=0, atol=0)
    grad = torch.randn_like(actual)
    for one, other in zip(
        torch.autograd.grad(actual, half, grad), torch.autograd.grad(expected, full, grad.float())
    ):
        torch.testing.assert_close(one, other.to(dtype), rtol=0, atol=0)
