from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmws.checkpoints import (
    META_KEY,
    Checkpoint,
    check_normalization,
    check_weights,
    describe_weights,
)
from mmws.checkpoints.guard import unwrap
from mmws.compat.mmengine_private import is_resuming, loads_from
from mmws.registry import HOOKS


@HOOKS.register_module()
class CheckpointRecordHook(Hook):
    """Write into every checkpoint what its weights were trained with; resume no other model.

    :func:`mmws.engine.train` adds the hook by itself. A config for other tools adds it by
    ``custom_hooks = [dict(type='mmws.CheckpointRecordHook')]``. The metadata that
    :func:`mmws.checkpoints.describe_weights` returns go into ``checkpoint['meta']['mmws']``. A run
    that resumes must load exactly the weights of its model. Before training, the log warns of
    backbones whose weights were trained on otherwise normalized images.

    Raises:
        CheckpointMismatchError: on resuming from a checkpoint of another model, before anything
            is loaded.
    """

    # The check must come before hooks that load weights themselves, such as EMAHook.
    priority = 'VERY_HIGH'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['meta'][META_KEY] = describe_weights(unwrap(runner.model))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if is_resuming(runner):
            weights = Checkpoint.of(checkpoint, str(loads_from(runner))).weights
            check_weights(unwrap(runner.model), weights, strict=True)

    def before_train(self, runner: Runner) -> None:
        if loads_from(runner) is None:
            check_normalization(unwrap(runner.model))
