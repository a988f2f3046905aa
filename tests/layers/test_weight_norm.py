"""Weight Normalization against PyTorch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from mmws import layers
from mmws.functional import normalize_weight
from tests.helpers.layer_cases import CASES

NORMALIZED = pytest.mark.parametrize(
    'case', [c for c in CASES if 'WN' in c.layer.__name__], ids=lambda c: c.layer.__name__
)


@settings(deadline=None, max_examples=60)
@given(
    dims=st.integers(0, 3),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_equals_pytorch(dims, groups, kernel, stride, dtype):
    torch.manual_seed(0)
    arguments, options = (4, 8, kernel), {'stride': stride, 'groups': groups}
    if dims == 0:
        arguments, options = (4, 8), {}
    ours = getattr(layers, f'ConvWN{dims}d' if dims else 'LinearWN')(*arguments, **options)
    plain = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims](*arguments, **options)
    theirs = parametrizations.weight_norm(plain).to(dtype)
    with torch.no_grad():
        theirs.parametrizations.weight.original0.uniform_(0.5, 2.0)
    ours.to(dtype).load_state_dict(theirs.state_dict())
    image = torch.randn(2, 4, *[5] * dims, dtype=dtype)
    results = []
    for layer in (ours, theirs):
        leaf = image.detach().requires_grad_()
        out = layer(leaf)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
        parameters = (
            (layer.weight_g, layer.weight)
            if layer is ours
            else (layer.parametrizations.weight.original0, layer.parametrizations.weight.original1)
        )
        results.append((out, *torch.autograd.grad(out, [leaf, layer.bias, *parameters], grad)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@NORMALIZED
def test_a_plain_state_dict_leaves_the_function_as_it_was(case):
    plain, layer = case.make_plain(), case.make()
    nn.init.normal_(plain.weight)
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.effective_weight(), plain.weight)
    assert torch.equal(layer(*case.inputs()), plain(*case.inputs()))
    assert layer.weight_g.numel() == 6
    assert layer.weight_g.shape[1:] == (1,) * (plain.weight.dim() - 1)


@NORMALIZED
def test_a_new_layer_computes_with_what_it_stores(case):
    layer = case.make()
    assert torch.equal(layer.effective_weight(), layer.weight)
    nn.init.normal_(layer.weight)
    assert not torch.equal(layer.effective_weight(), layer.weight)
    layer.reset_gain()
    assert torch.equal(layer.effective_weight(), layer.weight)
    for reset in ('reset_parameters', 'init_weights'):
        if hasattr(layer, reset):
            getattr(layer, reset)()
            assert torch.equal(layer.effective_weight(), layer.weight)


def test_loads_the_state_dict_of_the_old_weight_norm():
    theirs, ours = weight_norm(nn.Conv2d(4, 8, 3)), layers.ConvWN2d(4, 8, 3)
    with torch.no_grad():
        theirs.weight_g.uniform_(0.5, 2.0)
    state = theirs.state_dict()
    ours.load_state_dict(state)
    image = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(ours(image), theirs(image))
    assert 'weight_v' in state  # the caller's dictionary is left as it was


def test_missing_weights_are_reported():
    with pytest.raises(RuntimeError, match='weight_g'):
        layers.ConvWN2d(4, 8, 3).load_state_dict({'bias': torch.zeros(8)})


def test_the_length_of_the_direction_has_no_influence():
    layer, image = layers.ConvWN2d(4, 8, 3), torch.randn(1, 4, 6, 6)
    before = layer(image)
    with torch.no_grad():
        layer.weight.mul_(3)
    torch.testing.assert_close(layer(image), before)
    torch.testing.assert_close(
        layer.effective_weight(), normalize_weight(layer.weight, layer.weight_g)
    )
