"""The maths against loops in float64, finite differences and the statements of the papers."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

from mmws.functional import (
    Normalize,
    Standardize,
    Transposed,
    WeightFunction,
    apply,
    normalize_weight,
    standardize_weight,
)

FORMS = [
    pytest.param({'variance': v, 'eps_inside': i}, id=f'{v}-{"inside" if i else "outside"}')
    for v, i in itertools.product(('unbiased', 'biased'), (False, True))
]
SHAPES = st.sampled_from([(5, 7), (4, 3, 5), (6, 2, 3, 3), (3, 4, 1, 1), (2, 2, 2, 3, 2), (1, 9)])
LAYOUTS = st.sampled_from(['contiguous', 'channels_last', 'sliced', 'transposed', 'expanded'])


def make_weight(shape, layout: str, dtype=torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight = (weight * 0.05 + 0.02).to(dtype)
    if layout == 'channels_last' and len(shape) in (4, 5):
        memory_format = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        return weight.to(memory_format=memory_format)
    if layout == 'sliced':
        return torch.stack((weight, -weight), dim=-1)[..., 0]
    if layout == 'transposed':
        return weight.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == 'expanded':
        return weight[..., :1].expand(shape)
    return weight


def loop_standardize(weight, eps, variance='unbiased', eps_inside=False, gain=None):
    """One filter after the other, in float64."""
    out = torch.empty_like(weight, dtype=torch.float64)
    for o, filter_ in enumerate(weight.double()):
        n = filter_.numel()
        mean = math.fsum(filter_.flatten().tolist()) / n
        squares = math.fsum((x - mean) ** 2 for x in filter_.flatten().tolist())
        var = squares / (n if variance == 'biased' else max(n - 1, 1))
        deviation = math.sqrt(var + eps) if eps_inside else math.sqrt(var) + eps
        out[o] = (filter_ - mean) / deviation * (1.0 if gain is None else gain[o].item())
    return out


@pytest.mark.parametrize('form', FORMS)
@settings(deadline=None, max_examples=30)
@given(shape=SHAPES, layout=LAYOUTS, seed=st.integers(0, 99), with_gain=st.booleans())
def test_standardize_equals_a_float64_loop(form, shape, layout, seed, with_gain):
    # Would catch a mean over the wrong axis, n for n - 1, or eps in the wrong place.
    weight = make_weight(shape, layout, seed=seed)
    gain = torch.linspace(-1, 2, shape[0]) if with_gain else None
    out = standardize_weight(weight, 1e-3, gain, **form)
    expected = loop_standardize(weight, 1e-3, gain=gain, **form)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(shape=SHAPES, layout=LAYOUTS, seed=st.integers(0, 99))
def test_normalize_equals_a_float64_loop(shape, layout, seed):
    v, g = make_weight(shape, layout, seed=seed), torch.linspace(-1, 2, shape[0])
    out = normalize_weight(v, g.view(-1, *[1] * (len(shape) - 1)))
    for o, filter_ in enumerate(v.double()):
        expected = filter_ * g[o].item() / math.sqrt(sum(filter_.flatten() ** 2))
        torch.testing.assert_close(out[o].double(), expected, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    shape=SHAPES,
    layouts=st.tuples(LAYOUTS, LAYOUTS),
    variance=st.sampled_from(['unbiased', 'biased']),
    eps_inside=st.booleans(),
    gain=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_closed_form_is_the_gradient_of_the_composition(
    shape, layouts, variance, eps_inside, gain, dtype
):
    # Would catch a gradient read in the layout of the weight while it has another.
    function = Standardize(1e-3, variance, eps_inside, scale=0.7)
    stored = [make_weight(shape, layouts[0], dtype)]
    if gain:
        stored += [torch.rand(shape[0], dtype=dtype), torch.rand(shape[0], dtype=dtype)]
    leaves = [t.detach().requires_grad_() for t in stored]
    grad = make_weight(shape, layouts[1], dtype, seed=1)
    got = torch.autograd.grad(apply(function, *leaves), leaves, grad)
    expected = torch.autograd.grad(function(*leaves), leaves, grad)
    tolerance = {'rtol': 1e-4, 'atol': 1e-4} if dtype == torch.float32 else {}
    torch.testing.assert_close(got, expected, **tolerance)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('groups', [None, 1, 2])
@pytest.mark.parametrize('others', [0, 1, 2], ids=['bare', 'gain', 'gain-shift'])
def test_standardize_first_and_second_gradients(form, groups, others):
    torch.manual_seed(0)
    function: WeightFunction = Standardize(1e-2, **form, scale=0.7)
    filters = 4
    if groups:
        function, filters = Transposed(function, groups), 2 * groups
    weight = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    stored = [weight] + [
        torch.randn(filters, 1, 1, dtype=torch.float64, requires_grad=True) for _ in range(others)
    ]
    assert gradcheck(lambda *s: apply(function, *s), stored)
    assert gradgradcheck(lambda *s: apply(function, *s), stored)


@pytest.mark.parametrize('groups', [None, 1, 2])
def test_normalize_first_and_second_gradients(groups):
    torch.manual_seed(0)
    function = Transposed(Normalize(), groups) if groups else Normalize()
    v = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    g = torch.randn(2 * groups if groups else 4, 1, 1, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *s: apply(function, *s), (v, g))
    assert gradgradcheck(lambda *s: apply(function, *s), (v, g))


def test_second_gradients_stop_at_the_arguments():
    # Would catch a second pass that differentiates through whatever made the arguments: here the
    # gain depends on the weight, and that path must not be counted twice.
    def loss(weight):
        gain = weight.pow(2).mean(1)
        return standardize_weight(weight, 1e-2, gain).pow(3).sum()

    def composed(weight):
        return Standardize(1e-2)(weight, weight.pow(2).mean(1)).pow(3).sum()

    weight = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for function in (loss, composed):
        (first,) = torch.autograd.grad(function(weight), weight, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), weight)
        results.append((first, second))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('eps', [1e-5, 0.0])
@pytest.mark.parametrize('shape', [(3, 2, 3, 3), (4, 1, 1, 1), (2, 27)])
@pytest.mark.parametrize('value', [0.0, 0.1, -7.7])
def test_filters_without_variance_are_finite(form, dtype, eps, shape, value):
    # The textbook gradient divides by the deviation; a one-element filter by n - 1 = 0.
    weight = torch.full(shape, value, dtype=dtype, requires_grad=True)
    for function in (lambda w: standardize_weight(w, eps, **form), Standardize(eps, **form)):
        out = function(weight)
        (grad,) = torch.autograd.grad(out, weight, torch.ones_like(out))
        assert out.isfinite().all()
        assert grad.isfinite().all()
        noise = torch.finfo(out.dtype).eps * abs(value)  # of the mean
        if eps:
            assert out.abs().max() <= 4 * noise / eps


def test_the_gradient_without_variance_is_the_limit():
    weight = torch.full((2, 8), 0.5, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, 8, dtype=torch.float64)
    (got,) = torch.autograd.grad(standardize_weight(weight, 1e-2), weight, grad)
    torch.testing.assert_close(got, (grad - grad.mean(1, keepdim=True)) / 1e-2)


def test_a_filter_of_zeros_stays_one():
    v = torch.zeros(2, 3, requires_grad=True)
    g = torch.tensor([0.0, 2.0], requires_grad=True)
    for function in (normalize_weight, Normalize()):
        out = function(v, g)
        grads = torch.autograd.grad(out.sum(), (v, g))
        assert all((t == 0).all() for t in (out, *grads))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('form', FORMS)
def test_half_precision_is_computed_in_float32(dtype, form):
    # Would catch statistics in half precision: the mean of these is off by percents there.
    weight = (torch.randn(4, 64, 3, 3) + 20).to(dtype)
    for out in (standardize_weight(weight, **form), Standardize(1e-5, **form)(weight)):
        assert out.dtype == dtype
        expected = standardize_weight(weight.float(), **form).to(dtype)
        torch.testing.assert_close(out, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.parametrize(
    'function', [standardize_weight, lambda v: normalize_weight(v, v[:, 0, 0, 0])]
)
@pytest.mark.parametrize('layout', ['contiguous', 'channels_last'])
def test_layouts_are_kept(function, layout):
    # Would catch a conversion of the filter in every step of a channels_last model.
    weight = make_weight((4, 3, 2, 2), layout).requires_grad_()
    out = function(weight)
    out.sum().backward()
    assert out.stride() == weight.stride() == weight.grad.stride()


@pytest.mark.parametrize('stored', ['standardize', 'normalize'])
def test_nothing_is_kept_but_the_arguments_and_vectors(stored):
    weight, gain = torch.randn(8, 16, 3, 3, requires_grad=True), torch.randn(8, requires_grad=True)
    out = (
        standardize_weight(weight, gain=gain)
        if stored == 'standardize'
        else normalize_weight(weight, gain)
    )
    node = out.grad_fn
    assert node.stored[0] is weight
    assert node.kept
    assert all(t.numel() == 8 for t in node.kept)


def test_changing_the_weight_before_backward_raises():
    # Would catch a filter silently recomputed from another weight than forward saw.
    weight = torch.randn(3, 4, requires_grad=True)
    out = standardize_weight(weight)
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()


@pytest.mark.parametrize(
    'function',
    [standardize_weight, lambda w: normalize_weight(w, w.flatten(1)[:, 0])],
    ids=['standardize', 'normalize'],
)
class TestTracing:
    def test_meta_and_fake_tensors(self, function):
        meta = torch.empty(4, 3, 2, 2, device='meta', requires_grad=True)
        function(meta).sum().backward()
        assert meta.grad.shape == meta.shape
        with FakeTensorMode():
            assert function(torch.empty(4, 3, 2, 2)).shape == (4, 3, 2, 2)

    @pytest.mark.slow
    def test_compiles_without_graph_breaks(self, function):
        weight = torch.randn(4, 3, 2, 2, requires_grad=True)
        compiled = torch.compile(function, fullgraph=True, backend='aot_eager')
        out, expected = compiled(weight), function(weight)
        torch.testing.assert_close(out, expected)
        grad = torch.randn_like(out)
        torch.testing.assert_close(
            torch.autograd.grad(out, weight, grad), torch.autograd.grad(expected, weight, grad)
        )

    def test_transforms(self, function):
        weights = torch.randn(3, 4, 5, dtype=torch.float64)
        each = torch.stack([function(w) for w in weights])
        torch.testing.assert_close(torch.func.vmap(function)(weights), each)

        def loss(weight):
            return function(weight).pow(3).sum()

        leaf = weights[0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf)
        torch.testing.assert_close(torch.func.grad(loss)(weights[0]), gradient)
        grads = torch.func.vmap(torch.func.grad(loss))(weights)
        torch.testing.assert_close(grads[0], gradient)
        _, slope = torch.func.jvp(loss, (weights[0],), (weights[1],))
        torch.testing.assert_close(slope, (gradient * weights[1]).sum())

    def test_forward_mode(self, function):
        weight, tangent = torch.randn(2, 4, 5, dtype=torch.float64)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(weight, tangent)
            got = torch.autograd.forward_ad.unpack_dual(function(dual)).tangent
        torch.testing.assert_close(got, torch.func.jvp(function, (weight,), (tangent,))[1])

    def test_batched_gradients(self, function):
        weight = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
        out, grads = function(weight), torch.randn(3, 4, 5, dtype=torch.float64)
        (batched,) = torch.autograd.grad(
            out, weight, grads, is_grads_batched=True, retain_graph=True
        )
        each = [torch.autograd.grad(out, weight, g, retain_graph=True)[0] for g in grads]
        torch.testing.assert_close(batched, torch.stack(each))


class TestStatements:
    """What the papers say of the functions and their gradients."""

    def test_filters_have_zero_mean_and_unit_variance_at_every_step(self):
        weight = (torch.randn(8, 4, 3, 3) * 0.05 + 1).requires_grad_()
        target = torch.randn(8, 4, 3, 3)
        optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9, weight_decay=1e-2)
        for _ in range(20):
            out = standardize_weight(weight, 1e-8)
            std, mean = torch.std_mean(out.detach().flatten(1), 1)
            torch.testing.assert_close(mean, torch.zeros(8), atol=1e-4, rtol=0)
            torch.testing.assert_close(std, torch.ones(8), atol=1e-4, rtol=0)
            optimizer.zero_grad()
            (out - target).square().mean().backward()
            optimizer.step()

    def test_gradient_of_a_filter_is_centred_and_orthogonal_to_it(self):
        weight = torch.randn(6, 20, dtype=torch.float64, requires_grad=True)
        standardize_weight(weight, 0.0).mul(torch.randn_like(weight)).sum().backward()
        centred = weight.detach() - weight.detach().mean(1, keepdim=True)
        zeros = torch.zeros(6, dtype=torch.float64)
        torch.testing.assert_close(weight.grad.mean(1), zeros, atol=1e-12, rtol=0)
        torch.testing.assert_close((weight.grad * centred).sum(1), zeros, atol=1e-12, rtol=0)

    @settings(deadline=None, max_examples=30)
    @given(c=st.floats(1e-3, 1e3), normalize=st.booleans())
    def test_scaling_a_filter_changes_nothing_and_divides_its_gradient(self, c, normalize):
        grad = torch.randn(3, 9, dtype=torch.float64)
        gain = torch.rand(3, dtype=torch.float64)
        weight = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
        scaled = (weight.detach() * c).requires_grad_()
        outs, grads = [], []
        for w in (weight, scaled):
            outs.append(normalize_weight(w, gain) if normalize else standardize_weight(w, 0.0))
            grads += torch.autograd.grad(outs[-1], w, grad)
        torch.testing.assert_close(outs[1], outs[0])
        torch.testing.assert_close(grads[1] * c, grads[0])

    def test_normalized_gradient_is_projected_and_rescaled(self):
        # arXiv 1602.07868, eq. 4: g / ||v|| times the projection away from v.
        v = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
        g = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
        grad = torch.randn(5, 12, dtype=torch.float64)
        got, got_gain = torch.autograd.grad(normalize_weight(v, g), (v, g), grad)
        norm = v.detach().norm(dim=1, keepdim=True)
        unit = v.detach() / norm
        projection = torch.eye(12, dtype=torch.float64) - unit[:, :, None] * unit[:, None]
        expected = g.detach() / norm * (projection @ grad[..., None])[..., 0]
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(got_gain, (grad * unit).sum(1, keepdim=True))

    def test_norms_never_shrink_under_plain_sgd(self):
        v = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
        g = torch.ones(5, 1, dtype=torch.float64, requires_grad=True)
        target = torch.randn(5, 12, dtype=torch.float64)
        optimizer = torch.optim.SGD([v, g], lr=0.5)
        norms = [v.detach().norm(dim=1)]
        for _ in range(30):
            optimizer.zero_grad()
            (normalize_weight(v, g) - target).square().sum().backward()
            optimizer.step()
            norms.append(v.detach().norm(dim=1))
        growth = torch.stack(norms).diff(dim=0)
        assert (growth >= -1e-12).all()
        assert growth.sum() > 0.1


class TestErrors:
    def test_weight(self):
        with pytest.raises(ValueError, match=r'at least 2 dimensions.*\(3,\)'):
            standardize_weight(torch.ones(3))
        with pytest.raises(ValueError, match='int64'):
            normalize_weight(torch.ones(3, 3, dtype=torch.int64), torch.ones(3))

    def test_gain(self):
        with pytest.raises(ValueError, match='each of 3 filters, got 4'):
            standardize_weight(torch.ones(3, 4), gain=torch.ones(4))
        with pytest.raises(ValueError, match='each of 3 filters, got 1'):
            normalize_weight(torch.ones(3, 4), torch.ones(1))

    def test_options(self):
        with pytest.raises(ValueError, match="got 'population'"):
            standardize_weight(torch.ones(3, 4), variance='population')
        with pytest.raises(ValueError, match='got -1'):
            standardize_weight(torch.ones(3, 4), eps=-1)


def test_a_weight_function_needs_one_method_only():
    class Tanh(WeightFunction):
        def __call__(self, weight):
            return weight.tanh()

    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda w: apply(Tanh(), w), weight)
    assert gradgradcheck(lambda w: apply(Tanh(), w), weight)


@pytest.mark.parametrize('shape', [(0, 3, 2), (3, 0, 2)])
@pytest.mark.parametrize('form', FORMS)
def test_an_empty_weight_stays_empty(shape, form):
    weight = torch.empty(shape, requires_grad=True)
    gain = torch.ones(shape[0], requires_grad=True)
    for out in (standardize_weight(weight, 1e-5, gain, **form), normalize_weight(weight, gain)):
        assert out.shape == shape
        grads = torch.autograd.grad(out.sum(), (weight, gain))
        assert [grad.shape for grad in grads] == [weight.shape, gain.shape]
