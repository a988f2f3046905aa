"""The optimizer of a training that goes on: its state is checked, its learning rate adapted."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor

from mmws.checkpoints.intact import all_finite
from mmws.compat import CheckpointError

# Options that decide how an optimizer of PyTorch steps. Those that only some versions of PyTorch
# know are set by PyTorch itself where a checkpoint lacks them.
_OPTIONS = ('lr', 'betas', 'momentum', 'eps', 'weight_decay', 'nesterov', 'amsgrad', 'dampening')
# These keep the same states for all of their parameters.
_UNIFORM = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
# States that have the shape of their parameter.
_LIKE_PARAMETER = ('exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'momentum_buffer', 'square_avg')


def check_optimizer(optimizer: torch.optim.Optimizer, state: Any, source: str) -> None:
    """Check that the state of an optimizer is that of one like this.

    Raises:
        CheckpointError: if it is not; PyTorch would fail at the first step, or train on wrongly.
    """
    problem = _group_problem(optimizer, state) or _value_problem(optimizer, state)
    if problem:
        raise CheckpointError(f'checkpoint {source} cannot be resumed{problem}')


def _group_problem(optimizer: torch.optim.Optimizer, state: Any) -> str:
    """Return what is wrong with the groups and options, the empty text if nothing is."""
    groups = state.get('param_groups') if isinstance(state, Mapping) else None
    sound = isinstance(groups, list) and all(
        isinstance(group, Mapping) and isinstance(group.get('params'), list) for group in groups
    )
    if not sound or not groups:
        return ': its optimizer has no list param_groups of dicts with a list params'
    saved = [len(group['params']) for group in groups]
    wanted = [len(group['params']) for group in optimizer.param_groups]
    if saved != wanted:
        return (
            f': its optimizer has {sum(saved)} parameters in {len(saved)} groups, that of the '
            f'config has {sum(wanted)} in {len(wanted)}'
        )
    options = set(optimizer.param_groups[0]) - {'params', 'initial_lr'}
    old = set(groups[0]) - {'params', 'initial_lr'}
    if {'betas', 'momentum'} & (options ^ old):
        return (
            f' with {type(optimizer).__name__}: it holds the state of another optimizer, with the '
            f'options {", ".join(sorted(map(str, old)))}'
        )
    for number, (group, own) in enumerate(zip(groups, optimizer.param_groups)):
        for name in (*_OPTIONS, 'initial_lr'):
            if name in own and not same_kind(group.get(name), own[name]):
                return f': optimizer.param_groups.{number}.{name} in it is {shown(group.get(name))}'
    return ''


def same_kind(value: Any, own: Any) -> bool:
    """Whether an option that was saved may take the place of the optimizer's own."""
    if isinstance(own, bool) or own is None:
        return value is None or isinstance(value, bool)
    if isinstance(own, (tuple, list)):
        is_list = isinstance(value, (tuple, list)) and len(value) == len(own)
        return is_list and all(map(same_kind, value, own))
    if isinstance(value, Tensor):
        return value.numel() == 1 and bool(value.isfinite())
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _value_problem(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> str:
    """Return what is wrong with the values of the parameters, the empty text if nothing is."""
    values = state.get('state')
    if not isinstance(values, Mapping):
        return f': optimizer.state in it is {shown(values)}, no dict'
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    numbers = [number for group in state['param_groups'] for number in group['params']]
    names: set[str] | None = None
    for number, parameter in zip(numbers, parameters):
        entry = values.get(number) if isinstance(number, int) else None
        if entry is None:
            continue  # a parameter that no step has changed yet
        if not isinstance(entry, Mapping):
            return f': optimizer.state.{number} in it is {shown(entry)}, no dict'
        names = names or set(entry)
        if isinstance(optimizer, _UNIFORM) and entry.keys() != names:
            return f': optimizer.state.{number} in it is not like those of other parameters'
        for name, value in entry.items():
            where = f': optimizer.state.{number}.{name} in it is {shown(value)}'
            if name in _LIKE_PARAMETER and value is not None:
                if not isinstance(value, Tensor) or value.shape != parameter.shape:
                    return f'{where}, for a parameter of the shape {tuple(parameter.shape)}'
                if not value.is_floating_point():
                    return where
            if name == 'step' and not same_kind(value, 1):
                return where
    tensors = [
        value
        for entry in values.values()
        if isinstance(entry, Mapping)
        for value in entry.values()
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel()
    ]
    if not all_finite(tensors) and not all(bool(value.isfinite().all()) for value in tensors):
        return ': optimizer.state in it holds NaN or infinity'
    return ''


def shown(value: Any) -> str:
    """Return type and value, at most 60 characters, or the shape of a tensor."""
    if isinstance(value, Tensor):
        return f'a tensor of the shape {tuple(value.shape)} and {value.dtype}'
    return f'{type(value).__name__} {value!r}'[:60]


def adapt_rate(runner: Runner, checkpoint: dict, before: int, now: int) -> None:
    """Scale the learning rate to another number of images where asked; tell what it is.

    Args:
        runner: Of the training, with a single optimizer.
        checkpoint: To resume from; its learning rates are changed in place.
        before: Images that an update saw when the checkpoint was written.
        now: Images that an update sees now.
    """
    groups = checkpoint['optimizer']['param_groups']
    scaled = bool((runner.auto_scale_lr or {}).get('enable'))
    if before != now and scaled:
        _scale_rates(checkpoint, now / before)
        runner.logger.warning(
            f'an update now sees {now} images, {before} before: the learning rate of the '
            f'checkpoint is scaled by {now / before:g}'
        )
    elif before != now:
        runner.logger.warning(
            f'an update now sees {now} images, {before} before, and the learning rate stays that '
            'of the checkpoint: scale it with auto_scale_lr.enable=True'
        )
    wanted, found = (
        g[0].get('initial_lr', g[0]['lr']) for g in (runner.optim_wrapper.param_groups, groups)
    )
    if abs(wanted - found) > 1e-9 * abs(found):
        runner.logger.log(
            logging.WARNING,
            f'the learning rate of the config is {wanted:g}, but the training goes on with that of '
            f'the checkpoint, {found:g}: start anew with load_from to change it',
        )


def _scale_rates(checkpoint: dict, factor: float) -> None:
    for group in checkpoint['optimizer']['param_groups']:
        for key in ('lr', 'initial_lr'):
            if key in group:
                group[key] *= factor
    schedulers = checkpoint.get('param_schedulers', [])
    for scheduler in schedulers if isinstance(schedulers, list) else []:
        if scheduler.get('param_name') == 'lr':
            for key in ('base_values', '_last_value'):
                if isinstance(scheduler.get(key), list):
                    scheduler[key] = [value * factor for value in scheduler[key]]
