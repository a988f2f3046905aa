"""The hook that initialises layers with Weight Normalization on the first batch of a training."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmws.checkpoints import Checkpoint
from mmws.compat.mmengine_private import loads_from
from mmws.config.tree import init_cfgs, kind
from mmws.layers import init_weight_norm
from mmws.registry import HOOKS


@HOOKS.register_module()
class WeightNormInitHook(Hook):
    """Run :func:`init_weight_norm` on the first batch of a training, before its first iteration.

    ``custom_hooks = [dict(type='mmws.WeightNormInitHook')]`` in a config.

    What is already trained is kept: layers found in a checkpoint that the runner resumes or loads
    (``load_from``), with or without :math:`g`, and modules whose ``init_cfg`` is ``Pretrained``.

    Args:
        keep: Names of further modules to leave as they are, with all that is in them.
    """

    def __init__(self, keep: Collection[str] = ()) -> None:
        self.keep = set(keep)
        self.done = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        for key in Checkpoint.of(checkpoint, str(loads_from(runner))).weights:
            module, _, parameter = key.rpartition('.')
            if module and parameter in ('weight', 'weight_g'):
                self.keep.add(module)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if self.done:
            return
        self.done = True
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        pretrained = {name for name, module in model.named_modules() if _is_pretrained(module)}
        report = init_weight_norm(model, data_batch, _forward_loss, self.keep | pretrained)
        runner.logger.info(
            f'Weight Normalization: {len(report.initialized)} layers initialised on the first '
            f'batch ({len(report.without_bias)} without bias, {len(report.dead_channels)} with '
            f'channels that do not vary), {len(report.not_executed)} not executed'
        )


def _is_pretrained(module: nn.Module) -> bool:
    return any(kind(cfg) == 'Pretrained' for cfg in init_cfgs(module))


def _forward_loss(model: Any, data_batch: Any) -> Any:
    # A copy: preprocessors and losses change annotations in place.
    data = model.data_preprocessor(copy.deepcopy(data_batch), training=True)
    if isinstance(data, dict):
        return model(**data, mode='loss')
    return (
        model(*data, mode='loss') if isinstance(data, (tuple, list)) else model(data, mode='loss')
    )
