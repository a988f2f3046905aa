"""A hook for the data-dependent initialisation of layers with Weight Normalization."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmws.checkpoints import Checkpoint
from mmws.checkpoints.guard import unwrap
from mmws.compat.mmengine_private import loads_from
from mmws.config.tree import init_cfgs, kind
from mmws.layers import init_weight_norm
from mmws.registry import HOOKS


@HOOKS.register_module()
class WeightNormInitHook(Hook):
    """Run :func:`mmws.init_weight_norm` on the first batch, before the first training iteration.

    A config adds the hook by ``custom_hooks = [dict(type='mmws.WeightNormInitHook')]``.

    Layers that are already trained are left as they are: those whose weight is in a checkpoint that
    the runner resumes or loads (``load_from``), and those in modules whose ``init_cfg`` is
    ``Pretrained``.

    Args:
        keep: Names of further modules whose layers are left as they are.
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
        model = unwrap(runner.model)
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
    # Preprocessors and losses change annotations in place, but the training needs the batch too.
    data = model.data_preprocessor(copy.deepcopy(data_batch), training=True)
    if isinstance(data, dict):
        return model(**data, mode='loss')
    if isinstance(data, (tuple, list)):
        return model(*data, mode='loss')
    return model(data, mode='loss')
