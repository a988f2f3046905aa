"""Check one config of the zoo: build its model, run, convert, run again, fold, compare."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import nn

import mmws
from mmws.config.tree import DROP, KeyPath, kind, rewrite
from mmws.testing.compare import max_difference, tensors_of
from mmws.testing.trial import find_run, infer, train_step, training_loss
from mmws.training_step.live_memory import LiveMemory
from tools.dev.errors import one_line

FOLD_TOLERANCE = 1e-4

# Settings that download weights or change the size of images at random.
_DROPPED = ('pretrained', 'batch_augments', 'teacher_ckpt')
# Upper limits for numbers of proposals, sampled RoIs and detections, which cost nothing but time.
_LIMITS = {'nms_pre': 64, 'max_per_img': 8, 'num': 8, 'max_num': 8}


def check_model(cfg: Config) -> Iterator[dict[str, Any]]:
    """Take one config through all stages; yield the results of each when it has ended.

    Yields:
        Dicts of results. The key ``stage`` names the stage that begins.

    Raises:
        Exception: whatever a stage raises. The stage is the last one that was yielded.
    """
    yield {'stage': 'build'}
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    config = tiny_config(cfg.model)
    with _group_of_one():
        model = _build(config)
    yield {'built': True, 'parameters': sum(p.numel() for p in model.parameters())}

    yield {'stage': 'run'}
    run = find_run(model, config)
    yield {'ran': True, 'size': run.size, 'mode': run.mode, 'trained': run.trains}

    yield {'stage': 'convert'}
    model = mmws.convert(model, conv='WS', norm='GN')
    report: Any = model.conversion_report
    yield {'converted': True, 'convs': len(report.convs), 'norms': len(report.norms)}

    yield {'stage': 'run converted'}
    if run.trains:
        train_step(model, config, run.size)
    outputs = infer(model, config, run.size, run.mode)
    yield {'ran_converted': True}

    yield {'stage': 'remake'}
    if run.trains:
        yield _check_remaking(model, config, run.size)

    yield {'stage': 'check'}
    model.zero_grad()  # a copy of the model would copy the gradients too
    yield _check_conversion(model) if report.convs else {'holds': True}

    yield {'stage': 'fold'}
    model = mmws.fold(model, inplace=True)
    difference = max_difference(infer(model, config, run.size, run.mode), outputs)
    yield {
        'fold_equal': difference <= FOLD_TOLERANCE,
        'difference': difference,
        'compared': sum(t.numel() for t in tensors_of(outputs)),
    }


def _check_remaking(model: nn.Module, config: ConfigDict, size: int) -> dict[str, Any]:
    """Compare losses and gradients, bit by bit, and what is kept for the backward pass in bytes."""
    state = copy.deepcopy(model.state_dict())  # training changes running statistics and teachers
    steps = []
    for remake in (False, True):
        with mmws.TrainingStep(model, remake=remake):
            training_loss(model, config, size)  # the first pass shows the order of the layers
            model.load_state_dict(state)
            with LiveMemory() as memory:
                loss = training_loss(model, config, size)
                kept = memory.live()
            loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        steps.append((kept, [loss.detach(), *gradients]))
        model.zero_grad()
    model.load_state_dict(state)
    (kept, plain), (kept_remade, remade) = steps
    equal = len(plain) == len(remade) and all(map(torch.equal, plain, remade))
    return {'remake_equal': equal, 'kept': kept, 'kept_remade': kept_remade}


def _check_conversion(model: nn.Module) -> dict[str, Any]:
    try:
        check = mmws.check_conversion(model)
    except ValueError as error:  # it does not run in mode "tensor", or no run reaches a layer
        return {'holds': False, 'check_error': one_line(error)}
    return {
        'holds': check.holds,
        'check_difference': check.difference,
        'unchecked': len(check.unchecked),
    }


@contextmanager
def _group_of_one() -> Iterator[None]:
    """Be a process group of one process, for MMCV's synchronized batch norm (``MMSyncBN``).

    The layer asks for the number of processes when it is built and not later. PyTorch's layer
    refuses CPUs while there is a group.
    """
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _build(config: dict) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    return model


def tiny_config(model: dict) -> ConfigDict:
    """Return the config of a model without pretrained weights, and with few proposals.

    Widths and depths stay. Pretrained weights and random image sizes are removed. Numbers of
    proposals, sampled RoIs and detections are reduced to save time.
    """
    return ConfigDict(rewrite(model, _tiny, ('model',)))


def _tiny(path: KeyPath, value: Any) -> Any:
    key = str(path[-1])
    if isinstance(value, dict) and (key == 'init_cfg' or kind(value) == 'Pretrained'):
        return DROP if 'checkpoint' in value else value
    if key in _DROPPED:
        return DROP
    limit = _LIMITS.get(key)
    return min(value, limit) if limit is not None and isinstance(value, int) else value
