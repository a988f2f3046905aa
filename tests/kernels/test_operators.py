import contextlib
import threading

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmws import layers
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


def calls_of_a_step(layer, x):
    x.grad = None
    with Calls() as calls:
        layer(x).square().sum().backward()
    return calls.names


BIT = {'eps': 1e-6, 'variance': 'biased', 'eps_inside': True}


@pytest.mark.parametrize(
    ('layer', 'name'),
    [
        (layers.ConvWS2d(4, 8, 3), 'standardize'),
        (layers.ConvWS2d(4, 8, 3, **BIT), 'standardize'),
        (layers.ScaledConvWS2d(4, 8, 3), 'standardize'),
        (layers.ConvWN2d(4, 8, 3), 'normalize'),
    ],
)
def test_a_training_step_calls_three_operators_more_than_a_plain_layer(layer, name):
    """On a GPU each call is a launch, and launches bound a step at one image."""
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    plain = calls_of_a_step(nn.Conv2d(4, 8, 3), x)
    ours = calls_of_a_step(layer, x)
    # The plain layer finds the gradients of input and weight in one call, but as two kernels.
    assert len(ours) == len(plain) + 3
    assert ours.count('aten::convolution_backward') == 2
    assert set(ours) - set(plain) == {f'mmws::{name}', f'mmws::{name}_backward'}


@pytest.mark.parametrize('layer', [layers.ConvWS2d, layers.ConvWN2d])
@pytest.mark.parametrize('max_bytes', [0, 2**24])
def test_gradients_of_a_model_whose_layers_share_a_workspace(layer, max_bytes, monkeypatch):
    """The backward pass of one layer must not see the filter of another, of any size."""
    monkeypatch.setattr(aten._Workspace, 'max_bytes', max_bytes)
    model = nn.Sequential(layer(3, 8, 3), layer(8, 4, 3), layer(4, 8, 3)).double()
    assert torch.autograd.gradcheck(model, torch.randn(1, 3, 9, 9).double().requires_grad_())


@pytest.mark.parametrize('layer', [layers.ConvWS2d, layers.ConvWN2d])
def test_a_cpu_computes_the_same_with_and_without_the_dispatcher(layer):
    layer, x = layer(3, 8, 3), torch.randn(1, 3, 9, 9, requires_grad=True)
    results = []
    for mode in (contextlib.nullcontext(), Calls()):
        with mode:
            out = layer(x)
            results.append((out, *torch.autograd.grad(out.sum(), (layer.weight, x))))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_threads_have_workspaces_of_their_own():
    rows, taken = torch.ones(2, 3), []
    thread = threading.Thread(target=lambda: taken.extend(aten._workspace.take(rows)))
    thread.start()
    thread.join()
    assert taken[0].data_ptr() != aten._workspace.take(rows)[0].data_ptr()


def test_a_workspace_that_grew_is_one_memory():
    workspace = aten._Workspace()
    small = workspace.take(torch.ones(2, 3))[0].data_ptr()
    large = workspace.take(torch.ones(4, 5, 2))[0]
    assert workspace.take(torch.ones(2, 3))[0].data_ptr() == large.data_ptr() != small
    assert large.shape == (4, 5, 2)


def test_a_workspace_first_taken_in_inference_mode_serves_training():
    workspace = aten._Workspace()
    with torch.inference_mode():
        workspace.take(torch.ones(2, 3))
    assert not any(view.is_inference() for view in workspace.take(torch.ones(2, 3)))
