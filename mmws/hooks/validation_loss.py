"""The loss on the validation split, beside its metrics."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmws.checkpoints.guard import unwrap
from mmws.config.tree import walk
from mmws.data.positions import random_state_kept, seed_generators
from mmws.registry import HOOKS

from .data_workers import tie_workers


@HOOKS.register_module()
class ValidationLossHook(Hook):
    """Compute the training loss on the validation split after each evaluation.

    ``custom_hooks = [dict(type='mmws.ValidationLossHook')]`` in a config, or ``--val-loss``. The
    losses are logged with the metrics as ``validation/loss`` and ``validation/<part>``, averages
    over batches. The model is in evaluation mode: no dropout, and the running statistics of Batch
    Normalization. Samplers of a detector's heads draw the same random numbers every time.

    The images go through the pipeline of ``val_dataloader``, with its annotations loaded before the
    image is resized, as in training: MMDetection's validation loads them afterwards, in the scale
    of the original image. This takes one more pass over the split.
    """

    priority = 'HIGHEST'  # before MMEngine logs the metrics

    def __init__(self) -> None:
        self._loader: DataLoader | None = None

    @torch.no_grad()
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if not metrics:
            return  # the validation was interrupted
        if self._loader is None:
            self._loader = runner.build_dataloader(validation_loss_loader(runner.cfg), seed=0)
            tie_workers(self._loader)
        model: Any = unwrap(runner.model)
        sums: dict[str, float] = {}
        batches = 0
        with random_state_kept():
            seed_generators(0)
            for batch in self._loader:
                data = model.data_preprocessor(batch, False)
                _, losses = model.parse_losses(model._run_forward(data, mode='loss'))
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
                batches += 1
        ranks = all_gather_object((sums, batches))
        total = sum(count for _, count in ranks)
        for name in sums:
            metrics[f'validation/{name}'] = sum(part.get(name, 0.0) for part, _ in ranks) / total


def validation_loss_loader(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a loader of the validation split with annotations as in training.

    A pipeline that loads no annotations, as a classifier's, stays as it is.

    Raises:
        ValueError: if there is no validation split, or its pipeline loads annotations and that of
            the training does not.
    """
    if not cfg.get('val_dataloader'):
        raise ValueError('the validation loss needs val_dataloader, which the config does not have')
    loader = copy.deepcopy(dict(cfg['val_dataloader']))
    loading = [
        step
        for _, value in walk(cfg['train_dataloader'])
        if isinstance(value, (list, tuple))
        for step in value
        if isinstance(step, Mapping) and _loads_annotations(step)
    ]
    if not loading:
        if any(_loads_annotations(part) for _, part in walk(loader) if isinstance(part, Mapping)):
            raise ValueError('the validation loss needs a training pipeline with LoadAnnotations')
        return loader
    for _, value in list(walk(loader)):
        if isinstance(value, dict) and isinstance(value.get('pipeline'), (list, tuple)):
            value['pipeline'] = _with_annotations_first(value['pipeline'], loading[0])
    return loader


def _with_annotations_first(pipeline: Any, loading: Mapping[str, Any]) -> list[Any]:
    steps = [step for step in pipeline if not _loads_annotations(step)]
    first = next((i for i, step in enumerate(steps) if 'LoadImage' in str(step.get('type'))), -1)
    return [*steps[: first + 1], copy.deepcopy(dict(loading)), *steps[first + 1 :]]


def _loads_annotations(step: Mapping[str, Any]) -> bool:
    return 'LoadAnnotations' in str(step.get('type')) or 'LoadPanopticAnnotations' in str(
        step.get('type')
    )
