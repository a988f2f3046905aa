"""CARAFE through MMCV's functions against its formula, written as loops."""

import itertools
from importlib import import_module

import pytest
import torch

import mmws  # noqa: F401  (provides mmcv._ext)
from tests.helpers.op_cases import COMPILED, DEVICES, F64, HALF, compare, only_fallback

ops = import_module('mmcv.ops')  # after mmws, whatever the order of the imports above

pytestmark = pytest.mark.skipif(
    COMPILED and not torch.cuda.is_available(), reason='compiled MMCV has this op on GPUs only'
)

# Kernel size, groups, scale; the image is not square, and smaller than the largest kernel.
CASES = [(3, 1, 2), (5, 2, 2), (1, 4, 3), (3, 2, 1)]


def inputs(kernel_size, groups, scale):
    torch.manual_seed(0)
    return [
        torch.randn(2, 4, 3, 4, **F64),
        torch.randn(2, groups * kernel_size**2, 3 * scale, 4 * scale, **F64),
    ]


def reference(features, masks, kernel_size, groups, scale):
    """Eq. 2 of the paper."""
    batch, channels, height, width = features.shape
    reach = kernel_size // 2
    rows = []
    for b, c, y, x in itertools.product(
        *map(range, (batch, channels, height * scale, width * scale))
    ):
        total = torch.zeros((), **F64)
        for i, j in itertools.product(range(-reach, reach + 1), repeat=2):
            row, column = y // scale + i, x // scale + j
            if 0 <= row < height and 0 <= column < width:
                group = c // (channels // groups)
                tap = (group * kernel_size + i + reach) * kernel_size + j + reach
                total = total + features[b, c, row, column] * masks[b, tap, y, x]
        rows.append(total)
    return torch.stack(rows).view(batch, channels, height * scale, width * scale)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('case', CASES)
def test_carafe(case, device):
    # Catches rows mixed up with columns, groups shared out wrongly, and wrong borders.
    if COMPILED and device == 'cpu':
        pytest.skip('compiled MMCV has this op on GPUs only')
    compare(
        lambda features, masks: ops.carafe(features, masks, *case),
        lambda features, masks: reference(features, masks, *case),
        inputs(*case),
        device,
    )


@only_fallback
@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('case', CASES)
def test_carafe_naive_is_carafe(case, device):
    # By the ops: in MMCV's layer, an assertion keeps the backward pass of this one from CPUs.
    import mmcv._ext as ext

    features, masks = (t.to(device).requires_grad_() for t in inputs(*case))
    output = ops.carafe(features, masks, *case)
    torch.testing.assert_close(ops.carafe_naive(features, masks, *case), output)
    grad = torch.randn_like(output)
    found = [torch.full_like(t, 7.0) for t in (features, masks)]  # filled, not added to
    with torch.no_grad():
        ext.carafe_naive_backward(grad, features, masks, *found, *case)
    torch.testing.assert_close(found, [*torch.autograd.grad(output, [features, masks], grad)])


@pytest.mark.slow
@only_fallback
def test_gradcheck():
    case = (3, 2, 2)
    leaves = [t.requires_grad_() for t in inputs(*case)]
    torch.autograd.gradcheck(lambda features, masks: ops.carafe(features, masks, *case), leaves)


@only_fallback
@pytest.mark.parametrize('dtype', HALF)
def test_half_precision_is_rounded_once(dtype):
    # Summing k² products in half precision loses what the sum of softmax weights is about.
    case = (5, 2, 2)
    half = [t.to(dtype).requires_grad_() for t in inputs(*case)]
    full = [t.detach().float().requires_grad_() for t in half]
    actual, expected = ops.carafe(*half, *case), ops.carafe(*full, *case)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected.to(dtype), rtol=0, atol=0)
    grad = torch.randn_like(actual)
    for one, other in zip(
        torch.autograd.grad(actual, half, grad), torch.autograd.grad(expected, full, grad.float())
    ):
        torch.testing.assert_close(one, other.to(dtype), rtol=0, atol=0)


def test_upsampler_of_detectors():
    # The pack as necks and mask heads build it.
    layer = ops.CARAFEPack(8, 2)
    x = torch.ones(1, 8, 6, 5, requires_grad=True)
    output = layer(x)
    assert output.shape == (1, 8, 12, 10)
    # The kernels sum to 1, so a constant image stays constant where no border is near.
    torch.testing.assert_close(output[:, :, 4:-4, 4:-4], torch.ones(1, 8, 4, 2))
    output.sum().backward()
    assert x.grad.isfinite().all()
