from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmws.checkpoints import KEY, Checkpoint, check_normalization, check_weights, record
from mmws.registry import HOOKS


@HOOKS.register_module()
class CheckpointRecordHook(Hook):
    """Write into every checkpoint what its weights were trained with; resume nothing else.

    ``custom_hooks = [dict(type='mmws.CheckpointRecordHook')]`` in a config; the training of mmws
    adds it by itself. The record is ``checkpoint['meta']['mmws']``
    (:func:`mmws.checkpoints.record`). On ``--resume`` the weights must be exactly those of the
    model. Before training, backbones whose weights were trained on otherwise normalized images
    are told of in the log.

    Raises:
        CheckpointMismatchError: on resuming from a checkpoint of another model, before anything
            is loaded.
    """

    priority = 'VERY_HIGH'  # before hooks that load weights themselves, as EMAHook does

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['meta'][KEY] = record(_model(runner))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume:
            weights = Checkpoint.of(checkpoint, str(runner._load_from)).weights
            check_weights(_model(runner), weights, strict=True)

    def before_train(self, runner: Runner) -> None:
        if not runner._load_from:
            check_normalization(_model(runner))


def _model(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
