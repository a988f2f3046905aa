"""MMEngine's hook for training steps and evaluations whose weights are made together, or held."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmws.checkpoints.guard import unwrap
from mmws.registry import HOOKS
from mmws.training_step import HeldWeights, TrainingStep, hold_weights
from mmws.training_step.norm_check import NormCheck, describe


@HOOKS.register_module()
class TrainingStepHook(Hook):
    """Make the weights of a model together in training, and hold them in validation and test.

    mmws's own tools add it by themselves; for MMDetection's tools write
    ``custom_hooks = [dict(type='mmws.TrainingStepHook')]`` in the config. Losses, gradients and
    checkpoints are those of a training without it, but for the order of sums. See
    :class:`mmws.TrainingStep` and :func:`mmws.hold_weights`. The first iteration also warns of
    layers with Weight Standardization that no norm follows.

    Args:
        together: Make the weights of all layers together in training.
        hold: Hold the weights in validation and test.
        remake: Remake values in the backward pass instead of keeping them, which saves memory.
        group_mib: As for :class:`mmws.TrainingStep`.
    """

    # After EMAHook, which swaps the averaged weights in before validation and out after it.
    priority = 'VERY_LOW'

    def __init__(
        self,
        together: bool = True,
        hold: bool = True,
        remake: bool = False,
        group_mib: float | None = None,
    ) -> None:
        self.together = together
        self.hold = hold
        self.remake = remake
        self.group_mib = group_mib
        self._step: TrainingStep | None = None
        self._held: HeldWeights | None = None
        self._check: NormCheck | None = None
        self._checked = False

    def before_train(self, runner: Runner) -> None:
        self.after_train(runner)  # a training that failed has not done it
        if self.together or self.remake:
            self._step = TrainingStep(
                unwrap(runner.model), self.together, self.remake, self.group_mib
            )

    def after_train(self, runner: Runner) -> None:
        if self._step is not None:
            self._step.remove()
            self._step = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if not self._checked:
            self._check = NormCheck(unwrap(runner.model))
            self._checked = True

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        if self._check is None:
            return
        with self._check as check:
            names = check.unnormalized()
        self._check = None
        if names:
            print_log(describe(names), logger='current', level=logging.WARNING)

    def before_train_epoch(self, runner: Runner) -> None:
        self._release()  # an evaluation that failed has not done it

    def before_val_epoch(self, runner: Runner) -> None:
        self._release()
        if self.hold:
            self._held = hold_weights(unwrap(runner.model))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._release()

    def before_test_epoch(self, runner: Runner) -> None:
        self.before_val_epoch(runner)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._release()

    def _release(self) -> None:
        if self._held is not None:
            self._held.remove()
            self._held = None
