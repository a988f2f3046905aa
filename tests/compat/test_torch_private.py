"""Without a private name of PyTorch everything is slower, and right."""

import copy

import pytest
import torch
from torch import nn

from mmws import TrainingStep, hold_weights, layers
from mmws.compat import torch_private
from mmws.training_step import remake

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_every_name_is_found_in_this_pytorch():
    for name in torch_private.PRIVATE_NAMES:
        assert getattr(torch_private, name) is not None, name


@pytest.mark.parametrize('name', [*torch_private.PRIVATE_NAMES, None])
def test_each_name_may_be_missing(name, monkeypatch):
    monkeypatch.setattr(remake, 'MIN_BYTES', 0)
    torch.manual_seed(0)
    model = nn.Sequential(
        layers.ConvWS2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), layers.ConvWN2d(4, 8, 1),
        nn.GroupNorm(2, 8), nn.ReLU(), layers.ConvWS2d(8, 4, 1),
    )  # fmt: skip
    expected = []
    for m in (model, alone := copy.deepcopy(model)):
        if m is model:
            if name is not None:
                monkeypatch.setattr(torch_private, name, None)
            TrainingStep(m, remake=True)
            m(X)
        else:
            monkeypatch.undo()
        loss = m(X).square().sum()
        grads = torch.autograd.grad(loss, [*m.parameters()], create_graph=True)
        second = torch.autograd.grad(sum(g.sum() for g in grads), m[0].weight)
        expected.append((loss, *grads, *second))
    torch.testing.assert_close(*expected, rtol=1e-4, atol=1e-4)
    if name is not None:
        monkeypatch.setattr(torch_private, name, None)
    with torch.no_grad(), hold_weights(model):
        torch.testing.assert_close(model(X), alone(X))
