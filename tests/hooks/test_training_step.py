"""The hook of training steps leaves the model as it was, after failures, too."""

from types import SimpleNamespace

from torch import nn

from mmws import layers
from mmws.hooks import TrainingStepHook


def test_a_training_that_failed_leaves_one_step_behind_at_most():
    # Bug: the next training attaches a second step, whose hooks make remaking stop, and the first
    # one stays attached for good.
    model = nn.Sequential(layers.ConvWS2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU())
    runner, hook = SimpleNamespace(model=model), TrainingStepHook(remake=True)
    hook.before_train(runner)
    once = [len(m._forward_hooks) for m in model.modules()]
    hook.before_train(runner)
    assert [len(m._forward_hooks) for m in model.modules()] == once
    hook.after_train(runner)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
