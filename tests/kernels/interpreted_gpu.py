"""The Triton kernels by Triton's interpreter; run by test_gpu.py in a process of its own."""

import itertools

import pytest
import torch

from mmws.functional import Normalize, Standardize
from mmws.kernels import aten, gpu


def case(dtype, o, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows, grad = torch.randn(2, o, n, generator=generator, dtype=dtype)
    gain, shift = torch.randn(2, o, generator=generator, dtype=dtype)
    return rows * 0.05 + 0.1, gain, shift, grad


def options(function, n):
    return function.eps, function.eps_inside, function._divisor(n), function.scale


FUNCTIONS = [
    Standardize(),
    Standardize(eps=0.1),
    Standardize(eps=0.1, variance='biased', eps_inside=True, scale=0.3),
]


@pytest.mark.parametrize('function', FUNCTIONS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
# One element; no power of two; more than a program holds at a time.
@pytest.mark.parametrize('shape', [(3, 1), (2, 2), (3, 27), (2, 2 * gpu._MAX_BLOCK + 3)])
@pytest.mark.parametrize('affine', [False, True])
def test_values_and_gradients_are_those_of_the_formula(function, dtype, shape, affine):
    rows, gain, shift, grad = case(dtype, *shape)
    others = (gain, shift) if affine else ()
    leaves = [t.double().requires_grad_() for t in (rows, *others)]
    expected = function(*leaves)
    expected_grads = torch.autograd.grad(expected, leaves, grad.double())

    gain, shift = others or (None, None)
    arguments = options(function, shape[1])
    out, kept = gpu.standardize(rows, gain, shift, *arguments)
    again = gpu.restandardize(rows, gain, shift, kept, *arguments)
    *grads, beside = gpu.standardize_backward(
        grad, rows, gain, shift, kept, *arguments, [True, affine, affine, True]
    )
    # eps and scale reach a kernel as float32.
    tolerance = (
        {'rtol': 1e-4, 'atol': 1e-4} if dtype == torch.float32 else {'rtol': 1e-6, 'atol': 1e-6}
    )
    assert out.dtype == grads[0].dtype == dtype
    torch.testing.assert_close(out.double(), expected, **tolerance)
    torch.testing.assert_close(again, out)
    torch.testing.assert_close(beside, out)
    assert len(grads) == len(expected_grads)
    for made, wanted in zip(grads, expected_grads):
        torch.testing.assert_close(made.double(), wanted, **tolerance)


@pytest.mark.parametrize('implementation', [aten, gpu])
def test_only_what_is_asked_for_is_made(implementation):
    rows, gain, shift, grad = case(torch.float64, 4, 9)
    arguments = options(FUNCTIONS[1], 9)
    _, kept = implementation.standardize(rows, gain, shift, *arguments)

    def made(*mask):
        made = implementation.standardize_backward(
            grad, rows, gain, shift, kept, *arguments, list(mask)
        )
        return [tensor.clone() for tensor in made]

    everything = made(True, True, True, True)
    assert len(everything) == 4
    for mask in itertools.product([False, True], repeat=4):
        torch.testing.assert_close(made(*mask), list(itertools.compress(everything, mask)))

    _, kept = implementation.normalize(rows, gain)
    everything = implementation.normalize_backward(grad, rows, gain, kept, [True, True, True])
    everything = [tensor.clone() for tensor in everything]
    for mask in itertools.product([False, True], repeat=3):
        some = implementation.normalize_backward(grad, rows, gain, kept, list(mask))
        torch.testing.assert_close(some, list(itertools.compress(everything, mask)))


@pytest.mark.parametrize('function', FUNCTIONS)
def test_a_filter_without_variance_stays_finite(function):
    rows, grad = torch.full((2, 9), 0.3), torch.randn(2, 9)
    arguments = options(function, 9)
    out, kept = gpu.standardize(rows, None, None, *arguments)
    grads = gpu.standardize_backward(
        grad, rows, None, None, kept, *arguments, [True, False, False, False]
    )
    assert out.abs().max() < 1e-2
    assert grads[0].isfinite().all()


def test_both_implementations_take_the_same_arguments():
    """What one device computes, another computes from the same call."""
    rows, gain, shift, grad = case(torch.float64, 4, 9)
    arguments = options(FUNCTIONS[1], 9)
    results = []
    for implementation in (aten, gpu):
        out, kept = implementation.standardize(rows, gain, shift, *arguments)
        grads = implementation.standardize_backward(
            grad, rows, gain, shift, kept, *arguments, [True, True, True, True]
        )
        results.append((out, *grads))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('shape', [(0, 3), (3, 0)])
def test_an_empty_weight_launches_nothing(shape):
    out, *_ = gpu.standardize(torch.empty(shape), None, None, *options(FUNCTIONS[0], 3))
    assert out.shape == shape


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('shape', [(3, 1), (3, 27), (2, 2 * gpu._MAX_BLOCK + 3)])
def test_normalization(dtype, shape):
    rows, gain, _, grad = case(dtype, *shape)
    rows[0] = 0  # has no direction: stays, with zero gradients
    leaves = [t.double().requires_grad_() for t in (rows, gain)]
    expected = Normalize()(*leaves)
    expected_grads = torch.autograd.grad(expected, leaves, grad.double())

    out, kept = gpu.normalize(rows, gain)
    *grads, beside = gpu.normalize_backward(grad, rows, gain, kept, [True, True, True])
    tolerance = {'rtol': 1e-4, 'atol': 1e-4} if dtype == torch.float32 else {}
    torch.testing.assert_close(out.double(), expected, **tolerance)
    torch.testing.assert_close(gpu.renormalize(rows, gain, kept), out)
    torch.testing.assert_close(beside, out)
    for made, wanted in zip(grads, expected_grads):
        torch.testing.assert_close(made.double(), wanted, **tolerance)
