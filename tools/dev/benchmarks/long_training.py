"""What the hooks for long trainings cost: in a training step, and as a pause at a checkpoint.

    python tools/dev/benchmarks/long_training.py --model narrow r50 --pairs 15

Two trainings of the same detector run in one process, one with MMEngine's hooks, the other with the
hooks that `tools/train.py` adds: exact resume, durable checkpoints, divergence, stop, data workers.
They take a step in turn, and save a checkpoint in turn. The table gives the median of the ratios of
the pairs with their quartiles, so a change of the machine's speed during the run does not matter.
`--clock cpu` counts the computing time of the process, for a machine that does other work too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

import mmws  # noqa: F401
from mmws.config import load_config
from mmws.data.digits import DigitsConfig, generate_digits
from mmws.engine.batch_arithmetic import count_accumulation
from mmws.engine.distributed import prepare_distributed
from mmws.engine.run import TRAINING_HOOKS
from mmws.hooks import DurableCheckpointHook

MODELS = {'narrow': 'mask_rcnn_r18_gnws_digits.py', 'r50': 'mask_rcnn_r50_gnws.py'}
WARM_UP = 2


def make_config(model: str, size: int, data: Path, work_dir: Path, with_hooks: bool) -> Config:
    """Return the config of a training on one image a step."""
    dataset = dict(
        _delete_=True,
        type='CocoDataset',
        data_root=f'{data}/',
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=tuple('0123456789')),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ],
    )
    cfg = load_config(ROOT / 'configs' / MODELS[model])
    cfg.merge_from_dict(
        {
            'train_dataloader': dict(
                num_workers=0, persistent_workers=False, dataset=dataset,
                sampler=dict(_delete_=True, type='InfiniteSampler'),
            ),
            'train_cfg': dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10_000),
            'model.roi_head': dict(
                bbox_head=dict(num_classes=10), mask_head=dict(num_classes=10)
            ),
            'model.backbone.init_cfg': None,
            'default_hooks.checkpoint': dict(
                _delete_=True, by_epoch=False, interval=10_000, max_keep_ckpts=1,
                type='mmws.DurableCheckpointHook' if with_hooks else 'CheckpointHook',
            ),
            'param_scheduler': [dict(type='ConstantLR', factor=1.0, by_epoch=False)],
            'log_level': 'WARNING',
        }
    )  # fmt: skip
    names = TRAINING_HOOKS if with_hooks else ('mmws.TrainingStepHook',)
    cfg.custom_hooks = [dict(type=name) for name in names]
    for key in ('val_cfg', 'val_dataloader', 'val_evaluator', 'test_cfg', 'test_dataloader',
                'test_evaluator'):  # fmt: skip
        cfg[key] = None
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    cfg.experiment_name = work_dir.name
    prepare_distributed(cfg)
    return cfg


def begin(cfg: Config, with_hooks: bool) -> Runner:
    """Bring a training to its first step."""
    runner = Runner.from_cfg(cfg)
    if with_hooks:
        count_accumulation(runner)
    # `Runner.train` builds everything, then runs the loop, which is run from here instead.
    vars(runner.train_loop)['run'] = lambda: None
    runner.train()
    runner.call_hook('before_train')
    runner.call_hook('before_train_epoch')
    runner.model.train()
    return runner


def step(runner: Runner) -> None:
    """Load the next image and train on it, with all hooks."""
    loop: Any = runner.train_loop
    loop.run_iter(next(loop.dataloader_iterator))


def checkpoint_hook(runner: Runner) -> CheckpointHook:
    """Return the hook that saves."""
    return next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))


def save(runner: Runner) -> None:
    """Save as after an iteration at which a checkpoint is due."""
    hook = checkpoint_hook(runner)
    hook.interval = 1
    hook.after_train_iter(runner, batch_idx=0)
    hook.interval = 10_000


def settle(runner: Runner) -> None:
    """Wait for the thread that writes, as the steps up to the next checkpoint would."""
    hook = checkpoint_hook(runner)
    if isinstance(hook, DurableCheckpointHook):
        hook._writer.wait()


def measure(
    plain: Runner, hooked: Runner, act: Callable[[Runner], None], pairs: int,
    clock: Callable[[], float], after: Callable[[Runner], None] = lambda runner: None,
) -> list[tuple[float, float]]:  # fmt: skip
    """Return the seconds of both trainings for each pair; which one begins alternates."""
    times = []
    for number in range(-WARM_UP, pairs):
        seconds = {}
        order = (plain, hooked) if number % 2 else (hooked, plain)
        for runner in order:
            start = clock()
            act(runner)
            seconds[id(runner)] = clock() - start
            after(runner)
        if number >= 0:
            times.append((seconds[id(plain)], seconds[id(hooked)]))
    return times


def row(name: str, times: list[tuple[float, float]]) -> str:
    """Return a row of the table."""
    plain, hooked = (1000 * statistics.median(column) for column in zip(*times))
    low, middle, high = np.quantile([b / a for a, b in times], [0.25, 0.5, 0.75])
    difference = 1000 * statistics.median(b - a for a, b in times)
    return (
        f'| {name} | {plain:.1f} | {hooked:.1f} | {difference:+.1f} | '
        f'{middle:.3f} [{low:.3f}, {high:.3f}] |'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', nargs='+', choices=MODELS, default=['narrow'])
    parser.add_argument('--size', type=int, nargs='+', default=[512], help='of the images')
    parser.add_argument('--pairs', type=int, default=15)
    parser.add_argument('--clock', choices=['wall', 'cpu'], default='wall')
    args = parser.parse_args()
    clock = time.perf_counter if args.clock == 'wall' else time.process_time
    torch.manual_seed(0)
    print('| | MMEngine, ms | mmws, ms | difference, ms | ratio of the pairs [quartiles] |')
    print('| --- | ---: | ---: | ---: | ---: |')
    with tempfile.TemporaryDirectory(prefix='long_training_') as name:
        for size in args.size:
            data = generate_digits(
                Path(name, f'digits_{size}'),
                DigitsConfig(num_train=8, num_val=1, image_size=(size, size)),
            )
            for model in args.model:
                plain, hooked = [
                    begin(
                        make_config(
                            model, size, data, Path(name, f'{model}_{size}_{hooks}'), hooks
                        ),
                        hooks,
                    )
                    for hooks in (False, True)
                ]
                times = measure(plain, hooked, step, args.pairs, clock)
                print(row(f'{model} {size} x {size}, step', times), flush=True)
                times = measure(plain, hooked, save, args.pairs, clock, settle)
                print(row(f'{model} {size} x {size}, pause at a checkpoint', times), flush=True)
                for runner in (plain, hooked):
                    runner.call_hook('after_train')


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
