"""The Triton kernels, interpreted or on a GPU; run by test_gpu.py in a process of its own."""

import itertools
import os

import pytest
import torch

from mmws.functional import Normalize, Standardize
from mmws.kernels import aten, gpu

DEVICE = 'cpu' if os.environ.get('TRITON_INTERPRET') == '1' else 'cuda'
# One element; no power of two; more than a program holds at a time.
SHAPES = [(3, 1), (2, 2), (3, 27), (2, 2 * gpu._MAX_BLOCK + 3)]
# The filters of one layer, and those of several layers in one launch.
CASES = [*([shape] for shape in SHAPES), SHAPES, [(3, 3, 2, 2), (5, 4)]]
FUNCTIONS = [
    Standardize(),
    Standardize(eps=0.1),
    Standardize(eps=0.1, variance='biased', eps_inside=True, scale=0.3),
]


def case(dtype, shapes, seed=0):
    """Rows, gains, shifts and gradients of layers."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).to(DEVICE)

    rows = [random(*shape) * 0.05 + 0.1 for shape in shapes]
    vectors = [[random(shape[0]) for shape in shapes] for _ in range(2)]
    return rows, *vectors, [random(*shape) for shape in shapes]


def expected(function, rows, others, grads):
    """Outputs, then the gradients of rows, gains and shifts, by autograd in float64."""
    columns = [[t.double().requires_grad_() for t in column] for column in (rows, *others)]
    outs = [function(*stored) for stored in zip(*columns)]
    leaves = [t for column in columns for t in column]
    made = torch.autograd.grad(outs, leaves, [g.double() for g in grads])
    return outs, made


def assert_close(got, wanted, dtype):
    # eps and scale reach a kernel as float32.
    tolerance = 1e-4 if dtype == torch.float32 else 1e-6
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('function', FUNCTIONS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('shapes', CASES)
@pytest.mark.parametrize('affine', [False, True])
def test_values_and_gradients_are_those_of_the_formula(function, dtype, shapes, affine):
    rows, gains, shifts, grads = case(dtype, shapes)
    if not affine:
        gains, shifts = [], []
    wanted, wanted_grads = expected(function, rows, [c for c in (gains, shifts) if c], grads)
    options = function._options()
    made = gpu.standardize(rows, gains, shifts, *options, dtype)
    outs, kept = made[: len(rows)], made[len(rows) :]
    assert [out.shape for out in outs] == [r.shape for r in rows]
    mask = [True, affine, affine]
    got = gpu.standardize_backward(grads, rows, gains, kept, *options, mask)
    assert outs[0].dtype == got[0].dtype == dtype
    assert_close(outs, wanted, dtype)
    assert_close(got, wanted_grads, dtype)


@pytest.mark.parametrize('shapes', [[(3, 27)], [(3, 27), (2, 5)]])
@pytest.mark.parametrize('function', [Standardize(), Normalize()])
def test_half_precision_is_rounded_once(shapes, function):
    # Would catch sums in the dtype of the output.
    rows, gains, _, grads = case(torch.float32, shapes)
    half = [g.bfloat16() for g in grads]
    if isinstance(function, Standardize):
        arguments, last = (gains, [], *function._options()), (*function._options(), [1, 1, 0])
        exact = gpu.standardize(rows, *arguments, torch.float32)
        made = gpu.standardize(rows, *arguments, torch.bfloat16)
        backward = gpu.standardize_backward
    else:
        exact = gpu.normalize(rows, gains, torch.float32)
        made, last = gpu.normalize(rows, gains, torch.bfloat16), ([1, 1],)
        backward = gpu.normalize_backward
    count = len(rows)
    for a, b in zip(made[:count], exact):
        torch.testing.assert_close(a, b.bfloat16())
    got = backward(half, rows, gains, made[count:], *last)
    wanted = backward([g.float() for g in half], rows, gains, exact[count:], *last)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize('implementation', [aten, gpu])
def test_only_what_is_asked_for_is_made(implementation):
    rows, gains, shifts, grads = case(torch.float64, [(4, 9), (2, 9), (3, 5)])
    options = FUNCTIONS[1]._options()
    kept = implementation.standardize(rows, gains, shifts, *options, torch.float64)[3:]

    def made(*mask):
        return implementation.standardize_backward(grads, rows, gains, kept, *options, list(mask))

    everything = made(True, True, True)
    assert len(everything) == 9
    for mask in itertools.product([False, True], repeat=3):
        chosen = itertools.compress(everything, [asked for asked in mask for _ in rows])
        torch.testing.assert_close(made(*mask), list(chosen))

    kept = implementation.normalize(rows, gains, torch.float64)[3:]
    everything = implementation.normalize_backward(grads, rows, gains, kept, [True, True])
    for mask in itertools.product([False, True], repeat=2):
        some = implementation.normalize_backward(grads, rows, gains, kept, list(mask))
        chosen = itertools.compress(everything, [asked for asked in mask for _ in rows])
        torch.testing.assert_close(some, list(chosen))


@pytest.mark.parametrize('function', FUNCTIONS)
def test_a_filter_without_variance_stays_finite(function):
    rows, grads = [torch.full((2, 9), 0.3, device=DEVICE)], [torch.randn(2, 9, device=DEVICE)]
    options = function._options()
    out, *kept = gpu.standardize(rows, [], [], *options, torch.float32)
    (grad,) = gpu.standardize_backward(grads, rows, [], kept, *options, [True, False, False])
    assert out.abs().max() < 1e-2
    assert grad.isfinite().all()


def test_both_implementations_take_the_same_arguments():
    """What one device computes, another computes from the same call."""
    rows, gains, shifts, grads = case(torch.float64, [(4, 9), (2, 3, 3), (3, 5)])
    options = FUNCTIONS[1]._options()
    results = []
    for implementation in (aten, gpu):
        made = implementation.standardize(rows, gains, shifts, *options, torch.float64)
        got = implementation.standardize_backward(
            grads, rows, gains, made[3:], *options, [True, True, True]
        )
        results.append((*made[:3], *got))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('shape', [(0, 3), (3, 0)])
def test_an_empty_weight_launches_nothing(shape):
    rows = [torch.empty(shape, device=DEVICE)]
    out, *_ = gpu.standardize(rows, [], [], *FUNCTIONS[0]._options(), torch.float32)
    assert out.shape == shape


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('shapes', CASES)
def test_normalization(dtype, shapes):
    rows, gains, _, grads = case(dtype, shapes)
    rows[0][0] = 0  # has no direction: stays, with zero gradients
    wanted, wanted_grads = expected(Normalize(), rows, [gains], grads)
    made = gpu.normalize(rows, gains, dtype)
    got = gpu.normalize_backward(grads, rows, gains, made[len(rows) :], [True, True])
    assert_close(made[: len(rows)], wanted, dtype)
    assert_close(got, wanted_grads, dtype)
