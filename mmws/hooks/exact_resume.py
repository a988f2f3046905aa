"""A training that was interrupted goes on as the same training."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from mmws.checkpoints import check_resumable
from mmws.compat import CheckpointError
from mmws.compat.mmengine_private import (
    accumulated_steps,
    is_resuming,
    loads_from,
    restart_workers,
)
from mmws.data.positions import RandomState, give_positions, set_epoch
from mmws.registry import HOOKS

KEY = 'mmws_resume'


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Write into every checkpoint what the run needs to go on as the same run, and restore it.

    ``custom_hooks = [dict(type='mmws.ExactResumeHook')]`` in a config; the training of mmws adds it
    by itself. A checkpoint gets the entry ``mmws_resume``: for each rank the states of the random
    number generators (Python, NumPy, PyTorch, CUDA) and, between two updates of an accumulation,
    the gradients; the seed of the order of images, with which the sampler is built anew and
    forwarded without loading an image. The random numbers of samples follow from their position
    (:mod:`mmws.data.positions`), and validation leaves those of the training as they were.

    Used with :class:`mmws.DurableCheckpointHook`, which collects the states of all ranks.
    """

    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None
        self._all_ranks: list[dict[str, Any]] | None = None
        self._before_validation: dict[str, Any] | None = None
        self._restore: dict[str, Any] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not is_resuming(runner):
            return
        check_resumable(checkpoint, str(loads_from(runner)))
        _check_optimizer(runner, checkpoint)
        state = checkpoint.get(KEY)
        self._state = state if isinstance(state, dict) else None
        if self._state is None:
            _warn(runner, 'the checkpoint was written without mmws.ExactResumeHook: the random ')
            return
        _adapt_rate(runner, checkpoint, self._state)

    def before_train(self, runner: Runner) -> None:
        loop, state = runner.train_loop, self._state or {}
        saved, now = state.get('run', {}), run_facts(runner)
        differs = [key for key in saved if saved[key] != now.get(key) and key != 'seed']
        if differs:
            changes = ', '.join(f'{key} {saved[key]} before, {now.get(key)} now' for key in differs)
            _warn(runner, f'{changes}: the order of images and the random ')
        ranks = state.get('ranks') or []
        if len(ranks) == get_world_size():
            self._restore = ranks[get_rank()]
        elif state and not differs:
            _warn(runner, 'the checkpoint holds the state of one process only: the random ')
        _order_images(runner, saved.get('seed'))
        self._state = None
        if isinstance(loop, IterBasedTrainLoop):
            loop.dataloader_iterator = _EndlessBatches(loop)

    def after_train(self, runner: Runner) -> None:
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            runner.train_loop.dataloader_iterator.batches = None  # ends the workers

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if self._restore is not None:
            _restore_state(self._restore, runner)
            self._restore = None

    def before_val(self, runner: Runner) -> None:
        self._before_validation = _rank_state(runner)

    def after_val(self, runner: Runner) -> None:
        if self._before_validation is not None:
            _restore_generators(self._before_validation)
            self._before_validation = None

    def before_save_on_all_ranks(self, runner: Runner) -> None:
        """Collect what each rank must save; called on every rank by the checkpoint hook."""
        state = self._before_validation or _rank_state(runner)
        self._all_ranks = all_gather_object(state)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if 'optimizer' not in checkpoint:
            return
        ranks = self._all_ranks or [self._before_validation or _rank_state(runner)]
        self._all_ranks = None
        run = run_facts(runner)
        checkpoint[KEY] = {'version': 1, 'run': run, 'ranks': ranks}


def _warn(runner: Runner, cause: str) -> None:
    runner.logger.warning(
        f'{cause}numbers cannot go on as those of the interrupted training would have'
    )


def run_facts(runner: Runner, optim_wrapper: Any = None) -> dict[str, Any]:
    """Return what must be the same for an exact resume."""
    loader = runner.train_dataloader
    optim_wrapper = optim_wrapper or runner.optim_wrapper
    return {
        'seed': getattr(_sampler(loader), 'seed', None),
        'processes': get_world_size(),
        'images per process': loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 1),
        'accumulated steps': accumulated_steps(optim_wrapper),
        'images in the data set': len(loader.dataset),
    }


def images_per_update(run: Mapping[str, Any]) -> int:
    """Return how many images an update of the weights sees, of all processes."""
    return run['processes'] * run['images per process'] * run['accumulated steps']


def _sampler(loader: DataLoader) -> Any:
    return getattr(loader.batch_sampler, 'sampler', None) or loader.sampler


# ---- the random number generators of a rank, and its gradients


def _rank_state(runner: Runner) -> dict[str, Any]:
    state = RandomState.now()
    saved: dict[str, Any] = {
        'python': torch.tensor(state.python[1], dtype=torch.int64),
        'python_gauss': state.python[2],
        'numpy': torch.from_numpy(state.numpy[1].astype(np.int64)),
        'numpy_rest': [int(state.numpy[2]), int(state.numpy[3]), float(state.numpy[4])],
        'torch': state.torch,
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        saved['cuda'] = torch.cuda.get_rng_state()
    gradients = {
        name: parameter.grad.detach().cpu()
        for name, parameter in _named_parameters(runner)
        if parameter.grad is not None
    }
    if gradients and not _updated(runner):
        saved['gradients'] = gradients
    return saved


def _updated(runner: Runner) -> bool:
    """Whether the last iteration ended in an update of the weights."""
    return accumulated_steps(runner.optim_wrapper) == 1 or runner.optim_wrapper.should_update()


def _restore_state(saved: Mapping[str, Any], runner: Runner) -> None:
    _restore_generators(saved)
    gradients = saved.get('gradients', {})
    for name, parameter in _named_parameters(runner):
        if name in gradients:
            parameter.grad = gradients[name].to(parameter.device, parameter.dtype, copy=True)


def _restore_generators(saved: Mapping[str, Any]) -> None:
    # A checkpoint is loaded to the device of the model; generators have their states on the CPU.
    python, numpy = saved['python'].tolist(), saved['numpy'].cpu().numpy().astype(np.uint32)
    RandomState(
        (random.getstate()[0], tuple(python), saved['python_gauss']),
        ('MT19937', numpy, *saved['numpy_rest']),
        saved['torch'].cpu(),
    ).restore()
    if 'cuda' in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved['cuda'].cpu())


def _named_parameters(runner: Runner) -> Iterator[tuple[str, nn.Parameter]]:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model.named_parameters()


# ---- the order of images


class _EndlessBatches:
    """The batches of an iteration-based loop, from the one after those that were seen.

    MMEngine's own iterator starts its workers when the loop is built, and older versions load and
    throw away all batches that were seen before.
    """

    def __init__(self, loop: IterBasedTrainLoop) -> None:
        self.loader = loop.dataloader
        self.batches: Iterator[Any] | None = None
        # mmengine without `skip_iter` calls `next` once for each batch that was seen before.
        self.calls_to_ignore = 0 if hasattr(loop, 'fast_forward_on_resume') else loop.iter

    def __iter__(self) -> _EndlessBatches:
        return self

    def skip_iter(self, num_iters: int) -> None:
        """Do nothing: the batch sampler leaves out what was seen before."""

    def __next__(self) -> Any:
        if self.calls_to_ignore:
            self.calls_to_ignore -= 1
            return None
        if self.batches is None:
            self.batches = iter(self.loader)
        try:
            return next(self.batches)
        except StopIteration:
            set_epoch(self.loader.batch_sampler, self.loader.batch_sampler.passes)
            self.batches = iter(self.loader)
            return next(self.batches)


def _order_images(runner: Runner, seed: int | None) -> None:
    """Build the sampler of the training anew, at the position of the loop."""
    loop, loader = runner.train_loop, runner.train_dataloader
    _rebuild_sampler(runner, seed)
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    skip = loop.iter - loop.epoch * len(loader) if by_epoch else loop.iter
    if not 0 <= skip <= (len(loader) if by_epoch else skip):
        skip = 0  # the length of an epoch has changed
    positioned = give_positions(loader, runner.seed, get_rank(), number=loop.iter - skip, skip=skip)
    if not positioned:
        runner.logger.warning(
            f'{type(loader.dataset).__name__} has no indices: a resumed training gets other data '
            'than one that was not interrupted'
        )
    elif by_epoch and skip:
        runner.logger.info(f'resumed in the middle of epoch {loop.epoch + 1}, at batch {skip + 1}')
        _count_batches_from(loop, skip)


def _rebuild_sampler(runner: Runner, seed: int | None) -> None:
    cfg, loader = runner.cfg.get('train_dataloader'), runner.train_dataloader
    sampler_cfg = cfg.get('sampler') if isinstance(cfg, Mapping) else None
    if not isinstance(sampler_cfg, Mapping) or loader.batch_sampler is None:
        return
    if seed is None:
        seed = getattr(_sampler(loader), 'seed', None)
    sampler = DATA_SAMPLERS.build(
        dict(sampler_cfg), default_args=dict(dataset=loader.dataset, seed=seed)
    )
    batch_cfg = cfg.get('batch_sampler')
    if batch_cfg is None:
        batches = BatchSampler(sampler, loader.batch_size, loader.drop_last)
        vars(loader)['sampler'] = sampler
    else:
        batches = DATA_SAMPLERS.build(
            dict(batch_cfg), default_args=dict(sampler=sampler, batch_size=cfg['batch_size'])
        )
    vars(loader)['batch_sampler'] = batches
    restart_workers(loader)  # MMEngine may have started some, which read ahead in the old order


def _count_batches_from(loop: EpochBasedTrainLoop, skip: int) -> None:
    """Have the first epoch count its batches from the one after those that were seen."""
    run_iter, epoch = loop.run_iter, loop.epoch

    def run_iter_of_resumed_epoch(idx: int, data_batch: Any) -> None:
        run_iter(idx + skip if loop.epoch == epoch else idx, data_batch)

    loop.run_iter = run_iter_of_resumed_epoch


# ---- the optimizer


def _check_optimizer(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Check that the state of the optimizer is that of one like this.

    Raises:
        CheckpointError: if it is not; PyTorch would fail at the first step, or train on wrongly.
    """
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    state = checkpoint['optimizer']
    if optimizer is None or not isinstance(state, Mapping) or 'param_groups' not in state:
        return
    source = loads_from(runner)
    saved = [len(group['params']) for group in state['param_groups']]
    wanted = [len(group['params']) for group in optimizer.param_groups]
    if saved != wanted:
        raise CheckpointError(
            f'checkpoint {source} cannot be resumed: its optimizer has {sum(saved)} parameters in '
            f'{len(saved)} groups, that of the config has {sum(wanted)} in {len(wanted)}'
        )
    options = set(optimizer.param_groups[0]) - {'params', 'initial_lr'}
    old = set(state['param_groups'][0]) - {'params', 'initial_lr'}
    if {'betas', 'momentum'} & (options ^ old):
        raise CheckpointError(
            f'checkpoint {source} cannot be resumed with {type(optimizer).__name__}: it holds the '
            f'state of another optimizer, with the options {", ".join(sorted(old))}'
        )


def _adapt_rate(runner: Runner, checkpoint: dict, state: Mapping[str, Any]) -> None:
    """Scale the learning rate to another number of images where asked; tell what it is."""
    groups = checkpoint['optimizer'].get('param_groups', [])
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    if optimizer is None or not groups:
        return
    before, now = images_per_update(state['run']), images_per_update(run_facts(runner))
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
    wanted, found = (g[0].get('initial_lr', g[0]['lr']) for g in (optimizer.param_groups, groups))
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
