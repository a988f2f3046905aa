"""The operators as the rest of PyTorch sees them."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmws import TrainingStep, layers
from mmws.functional import Normalize, Standardize
from mmws.kernels import aten


class Calls(TorchDispatchMode):
    """The calls that compute, by name; views and allocations launch nothing on a GPU."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        views = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if not views:
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def calls_of_a_step(model, x):
    for tensor in (x, *model.parameters()):
        tensor.grad = None
    with Calls() as calls:
        model(x).square().sum().backward()
    return calls.names


BIT = {'eps': 1e-6, 'variance': 'biased', 'eps_inside': True}
LAYERS = [
    (layers.ConvWS2d, {}, 'standardize'),
    (layers.ConvWS2d, BIT, 'standardize'),
    (layers.ConvWN2d, {}, 'normalize'),
]


@pytest.mark.parametrize(('layer', 'options', 'name'), LAYERS)
def test_a_training_step_calls_two_operators_more_than_a_plain_layer(layer, options, name):
    """On a GPU each call is a launch, and launches bound a step at one image."""
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    plain = calls_of_a_step(nn.Conv2d(4, 8, 3), x)
    ours = calls_of_a_step(layer(4, 8, 3, **options), x)
    assert len(ours) == len(plain) + 2
    assert set(ours) - set(plain) == {f'mmws::{name}', f'mmws::{name}_backward'}


@pytest.mark.parametrize(('layer', 'options', 'name'), LAYERS)
def test_weights_made_together_take_two_operators_in_all(layer, options, name):
    x = torch.randn(1, 4, 9, 9, requires_grad=True)
    plain = nn.Sequential(*(nn.Conv2d(4, 4, k) for k in (3, 1, 3, 2)))
    ours = nn.Sequential(*(layer(4, 4, k, **options) for k in (3, 1, 3, 2)))
    with TrainingStep(ours):
        ours(x)  # watches
        assert len(calls_of_a_step(ours, x)) == len(calls_of_a_step(plain, x)) + 2


@pytest.mark.parametrize('layer', [layers.ConvWS2d, layers.ConvWN2d])
@pytest.mark.parametrize('max_joined', [0, 2**16])
def test_joined_filters_get_the_values_and_gradients_of_lone_ones(layer, max_joined, monkeypatch):
    """Would catch a filter, or a gradient, that goes to a layer of the same length."""
    monkeypatch.setattr(aten, 'MAX_JOINED', max_joined)
    model = nn.Sequential(*(layer(4, 4, k, padding=k // 2) for k in (3, 1, 3, 1, 3))).double()
    x = torch.randn(1, 4, 9, 9).double()
    lone = torch.autograd.grad(model(x).square().sum(), [*model.parameters()])
    with TrainingStep(model):
        for _ in range(2):
            out = model(x)
        together = torch.autograd.grad(out.square().sum(), [*model.parameters()])
    torch.testing.assert_close(together, lone)


@pytest.mark.parametrize('layer', [layers.ConvWS2d, layers.ConvWN2d])
def test_a_cpu_computes_the_same_with_and_without_the_dispatcher(layer):
    layer, x = layer(3, 8, 3), torch.randn(1, 3, 9, 9, requires_grad=True)
    results = []
    for watched in (False, True):
        with Calls() if watched else torch.enable_grad():
            out = layer(x)
            results.append((out, *torch.autograd.grad(out.sum(), (layer.weight, x))))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_only_what_is_asked_for_is_made():
    rows = [torch.randn(3, 4).double(), torch.randn(2, 4).double()]
    vectors = [torch.randn(3).double(), torch.randn(2).double()]
    options = (1e-2, True, False, 0.7)
    kept = torch.ops.mmws.standardize(rows, vectors, vectors, *options, torch.float64)[2:]

    def made(*mask):
        return torch.ops.mmws.standardize_backward(rows, rows, vectors, kept, *options, [*mask])

    everything = made(True, True, True)
    for mask in itertools.product([False, True], repeat=3):
        chosen = itertools.compress(everything, [asked for asked in mask for _ in rows])
        torch.testing.assert_close(made(*mask), list(chosen))


@pytest.mark.parametrize('function', [Standardize(), Normalize()], ids=['standardize', 'normalize'])
def test_a_default_device_is_not_that_of_the_layers(function):
    # Bug: constants are made on the default device of PyTorch, which may hold no data.
    weight, gain = torch.randn(4, 3, 2, 2), torch.rand(4)
    stored = (weight,) if isinstance(function, Standardize) else (weight, gain)
    aten._cached_constants.cache_clear()
    with torch.device('meta'):
        made = function.evaluate(*stored)[0]
    torch.testing.assert_close(made, function(*stored))
