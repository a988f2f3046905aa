"""Trainings of a small network by MMEngine's Runner, in this process, within a second.

The network draws random numbers while it trains, and so do its data; with GN+WS as in a detector.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

import mmws
from mmws.engine.run import TRAINING_HOOKS
from mmws.hooks import StopHook

IMAGES = 7


@MODELS.register_module()
class ToyNet(BaseModel):
    """Two layers and a dropout, whose loss is a sum over images."""

    def __init__(self, norm: str = 'GN') -> None:
        super().__init__()
        self.layers = nn.Sequential(
            mmws.ConvWS2d(2, 8, 3),
            nn.GroupNorm(2, 8) if norm == 'GN' else nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Conv2d(8, 1, 1),
        )

    def forward(
        self, inputs: list[torch.Tensor], data_samples: list[Any], mode: str = 'tensor'
    ) -> Any:
        outputs = self.layers(torch.stack(list(inputs)))
        if mode == 'predict':
            return data_samples
        noise = torch.rand(1) + np.random.rand() + random.random()
        return {'loss_toy': (outputs**2).mean() * noise.item()}


@DATASETS.register_module()
class ToyImages(torch.utils.data.Dataset):
    """Images whose values depend on the index and on all three random number generators."""

    metainfo: dict = {}  # noqa: RUF012
    loaded: list[int] = []  # noqa: RUF012

    def __init__(self, images: int = IMAGES) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.loaded.append(index)
        noise = np.random.rand() + random.random() + torch.rand(1)
        sample = BaseDataElement(metainfo={'img_path': f'images/{index}.png'})
        image = torch.linspace(0, 1, 32).reshape(2, 4, 4) * (index + 1) + noise
        return {'inputs': image, 'data_samples': sample}


@METRICS.register_module()
class ToyScore(BaseMetric):
    """Counts images; validation draws random numbers too."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [float(torch.rand(1))] * len(data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        return {'score': float(np.random.rand())}


class Killed(Exception):
    """Stands for SIGKILL: nothing is saved on the way out."""


@HOOKS.register_module()
class ToyFault(Hook):
    """Does something at the start of an iteration, counted from 0."""

    action: Any = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if self.action is not None:
            self.action(runner, data_batch)


def at(iteration: int, action: Any) -> Any:
    def act(runner: Runner, data_batch: Any) -> None:
        if runner.iter == iteration:
            action(runner, data_batch)

    return act


def kill(runner: Runner, data_batch: Any) -> None:
    raise Killed


def toy_config(
    work_dir: Path,
    by_epoch: bool = False,
    length: int = 12,
    interval: int = 3,
    workers: int = 0,
    accumulate: int = 1,
    seed: int | None = 3,
    ema: bool = False,
    images_per_step: int = 1,
    val: bool = True,
    **options: Any,
) -> Config:
    """Return the config of a toy training, with the hooks that mmws adds."""
    kind = 'DefaultSampler' if by_epoch else 'InfiniteSampler'
    loader = dict(num_workers=workers, persistent_workers=False, dataset=dict(type='ToyImages'))
    cfg = dict(
        model=dict(type='ToyNet'),
        work_dir=str(work_dir),
        train_dataloader=dict(
            loader, batch_size=images_per_step, sampler=dict(type=kind, shuffle=True)
        ),
        train_cfg=dict(by_epoch=True, max_epochs=length, val_interval=1)
        if by_epoch
        else dict(by_epoch=False, max_iters=length, val_interval=interval),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=0.01), accumulative_counts=accumulate
        ),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=8)],
        default_hooks=dict(
            checkpoint=dict(
                type='mmws.DurableCheckpointHook', by_epoch=by_epoch, interval=interval,
                max_keep_ckpts=2, save_best='score', rule='greater',
            )
        ),
        custom_hooks=[
            *(dict(type=name) for name in TRAINING_HOOKS),
            dict(type='ToyFault'),
            *([dict(type='EMAHook', momentum=0.1)] if ema else []),
        ],
        randomness=dict(seed=seed),
        log_level='WARNING',
        experiment_name=f'toy_{work_dir.name}_{random.random()}',
        default_scope='mmengine',
    )  # fmt: skip
    if val:
        cfg.update(
            val_dataloader=dict(
                loader, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
            ),
            val_cfg={},
            val_evaluator=dict(type='ToyScore'),
        )
    cfg.update(options)
    return Config(cfg)


def run(cfg: Config, action: Any = None, resume: str | None = None) -> Runner:
    """Train; what an earlier training has left in the random number generators plays no part."""
    cfg = Config(cfg.to_dict())
    cfg.experiment_name += str(random.random())
    if resume is not None:
        cfg.resume, cfg.load_from = True, resume
    ToyFault.action = staticmethod(action) if action else None
    torch.manual_seed(random.randrange(1000))
    runner = Runner.from_cfg(cfg)
    try:
        runner.train()
    except Killed:
        pass
    finally:
        for hook in runner.hooks:
            if hasattr(hook, '_writer'):
                hook._writer.wait()
            if isinstance(hook, StopHook):  # MMEngine tells hooks of the end only if it succeeds
                hook.release()
    return runner


def state(path: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint that a later iteration depends on."""
    checkpoint = torch.load(path, weights_only=True)
    found = dict(checkpoint['state_dict'])
    for number, values in checkpoint['optimizer']['state'].items():
        found.update({f'optimizer.{number}.{key}': value for key, value in values.items()})
    for key, value in checkpoint.get('ema_state_dict', {}).items():
        found[f'ema.{key}'] = value
    return found


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of tensors that differ by a bit."""
    a, b = state(one), state(other)
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]
