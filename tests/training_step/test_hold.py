"""Held weights: made once for an evaluation, and gone after it."""

import copy
import threading

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmws import hold_weights, layers
from mmws.functional import Standardize

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def make():
    torch.manual_seed(0)
    return nn.Sequential(layers.ConvWS2d(3, 4, 3), nn.ReLU(), layers.ConvWN2d(4, 4, 3)).eval()


@pytest.fixture
def made(monkeypatch):
    """Count how often a standardized weight is made."""
    calls = []
    evaluate = Standardize.evaluate

    def counted(*args):
        calls.append(1)
        return evaluate(*args)

    monkeypatch.setattr(Standardize, 'evaluate', counted)
    return calls


def check(model):
    """Return whether the model computes with what it stores."""
    with torch.no_grad():
        x = X.to(model[0].weight.dtype)
        out, fresh = model(x), make().to(x.dtype)
        fresh.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})
        torch.testing.assert_close(out, fresh(x))


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_made_once(made, mode):
    model = make()
    with hold_weights(model):
        for _ in range(3):
            with mode():
                model(X)
        assert len(made) == 1
        with torch.no_grad():
            model(X)
        assert len(made) == 1
    with torch.no_grad():
        model(X)
    assert len(made) == 2


def test_gradients_reach_the_stored_weight():
    model = make()
    with hold_weights(model):
        check(model)
        model(X).sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'change',
    [
        lambda model: model[0].weight.copy_(torch.randn(4, 3, 3, 3)),
        lambda model: model[2].weight_g.mul_(2),
        lambda model: model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}),
        lambda model: torch.nn.init.normal_(model[0].weight),
        lambda model: model.double(),
        lambda model: setattr(model[0].weight, 'data', torch.randn(4, 3, 3, 3)),
        lambda model: model.load_state_dict(
            {k: v + 1 for k, v in model.state_dict().items()}, assign=True
        ),
    ],
    ids=range(7),
)
def test_changes_that_leave_a_trace_are_followed(change):
    model = make()
    with hold_weights(model):
        check(model)
        with torch.no_grad():
            change(model)
        check(model)


def test_a_training_step_in_between_is_followed():
    # Would catch a filter from before a training that nothing counted.
    model = make()
    hold_weights(model)
    check(model)
    model.train()(X).sum()
    model[0].weight.data.mul_(-1)
    model.eval()
    check(model)


def test_autocast_gets_half_precision_and_float32_gets_float32():
    model = make()
    alone = copy.deepcopy(model)
    with hold_weights(model), torch.no_grad():
        for enabled in (True, False, True):
            with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
                torch.testing.assert_close(model(X), alone(X), rtol=0, atol=0)


def test_fake_weights_are_not_held():
    model = make()
    with hold_weights(model), torch.no_grad():
        with FakeTensorMode(allow_non_fake_inputs=True):
            model(torch.empty(1, 3, 8, 8))
        check(model)


def test_a_copy_holds_its_own():
    model = make()
    with hold_weights(model):
        check(model)
        twin = copy.deepcopy(model)
        twin[0].weight.data.mul_(-1)
        check(twin)
        check(model)


def test_averages_are_held_apart_from_the_model():
    model = make()
    with hold_weights(model):
        average = ExponentialMovingAverage(model, momentum=0.5).eval()
        check(model)
        with torch.no_grad():
            model[0].weight.normal_()
            average.update_parameters(model)
        check(average.module)


def test_threads():
    model = make()
    with torch.no_grad():
        expected, wrong = model(X), []
    hold_weights(model)

    def work():
        with torch.no_grad():
            for _ in range(30):
                if not torch.equal(model(X), expected):
                    wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
