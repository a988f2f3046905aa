"""A training that was interrupted goes on as the same training."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn

from mmws.checkpoints import check_resumable
from mmws.checkpoints.guard import unwrap
from mmws.compat import CheckpointError
from mmws.compat.mmengine_private import (
    accumulated_steps,
    inner_wrappers,
    is_resuming,
    loads_from,
    set_step_counts,
    step_counts,
)
from mmws.data.positions import RandomState
from mmws.registry import HOOKS

from .image_order import (
    EndlessBatches,
    has_positions,
    images_per_update,
    order_images,
    run_facts,
)
from .resumed_optimizer import adapt_rate, check_optimizer
from .resumed_runner import check_log, check_schedulers

KEY = 'mmws_resume'


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Write into every checkpoint what the run needs to go on as the same run, and restore it.

    ``custom_hooks = [dict(type='mmws.ExactResumeHook')]`` in a config; the training of mmws adds it
    by itself. A checkpoint gets the entry ``mmws_resume``: for each rank the states of the random
    number generators (Python, NumPy, PyTorch, CUDA) and, between two updates of an accumulation,
    the gradients; the seed of the order of images, with which the sampler is built anew and
    forwarded without loading an image; the batches of the epoch that were seen. An epoch of another
    length than before begins at its start. The random numbers of samples follow from their position
    (:mod:`mmws.data.positions`), and validation leaves those of the training as they were.

    Used with :class:`mmws.DurableCheckpointHook`, which collects the states of all ranks.
    """

    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None
        self._all_ranks: list[dict[str, Any]] | None = None
        self._before_validation: dict[str, Any] | None = None
        self._restore: dict[str, Any] | None = None
        self._epoch_start: tuple[int, int] | None = None  # an epoch, and its first iteration

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not is_resuming(runner):
            return
        source = str(loads_from(runner))
        check_resumable(checkpoint, source)
        check_log(checkpoint['message_hub'], source)
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
        if isinstance(optimizer, torch.optim.Optimizer):
            check_optimizer(optimizer, checkpoint['optimizer'], source)
        if 'param_schedulers' in checkpoint:
            check_schedulers(runner.param_schedulers or [], checkpoint['param_schedulers'], source)
        self._state = checkpoint.get(KEY)
        if self._state is None:
            _warn(runner, 'the checkpoint was written without mmws.ExactResumeHook: the random ')
            return
        _check_state(self._state, source)
        if isinstance(optimizer, torch.optim.Optimizer):
            before = images_per_update(self._state['run'])
            adapt_rate(runner, checkpoint, before, images_per_update(run_facts(runner)))

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
        skip = order_images(runner, saved, state.get('epoch'))
        self._epoch_start = (loop.epoch, loop.iter - skip)
        self._state = None
        # A stream of data has no order to go on in: MMEngine's iterator stays.
        if isinstance(loop, IterBasedTrainLoop) and has_positions(runner.train_dataloader):
            loop.dataloader_iterator = EndlessBatches(loop)

    def after_train(self, runner: Runner) -> None:
        batches = getattr(runner.train_loop, 'dataloader_iterator', None)
        if isinstance(batches, EndlessBatches):
            batches.batches = None  # ends the workers

    def before_train_epoch(self, runner: Runner) -> None:
        if self._epoch_start is None or self._epoch_start[0] != runner.epoch:
            self._epoch_start = (runner.epoch, runner.iter)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if self._restore is not None:
            _restore_state(self._restore, runner)
            self._restore = None

    def before_val(self, runner: Runner) -> None:
        # A validation that was stopped is run again before the first iteration, which restores.
        self._before_validation = self._restore or _rank_state(runner)

    def after_val(self, runner: Runner) -> None:
        if self._before_validation is not None:
            _restore_generators(self._before_validation)
            self._before_validation = None

    def before_save_on_all_ranks(self, runner: Runner) -> None:
        """Collect what each rank must save; called on every rank by the checkpoint hook."""
        state = self._before_validation or self._restore or _rank_state(runner)
        self._all_ranks = all_gather_object(state)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if 'optimizer' not in checkpoint:
            return
        state = self._before_validation or self._restore or _rank_state(runner)
        ranks = self._all_ranks or [state]
        self._all_ranks = None
        run = run_facts(runner)
        checkpoint[KEY] = {'version': 1, 'run': run, 'ranks': ranks}
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            epoch, start = self._epoch_start or (0, 0)
            # A checkpoint of the end of an epoch belongs to the next one, of which nothing is seen.
            is_inside = checkpoint['meta']['epoch'] == epoch
            checkpoint[KEY]['epoch'] = {
                'batches': len(runner.train_dataloader),
                'seen': checkpoint['meta']['iter'] - start if is_inside else 0,
            }


def _warn(runner: Runner, cause: str) -> None:
    runner.logger.warning(
        f'{cause}numbers cannot go on as those of the interrupted training would have'
    )


def _check_state(state: Any, source: str) -> None:
    """Check that what a checkpoint holds for an exact resume is what this hook writes.

    Raises:
        CheckpointError: naming what is not.
    """
    problem = _state_problem(state)
    if problem:
        raise CheckpointError(
            f'checkpoint {source} cannot be resumed: its entry {KEY} is not what mmws writes, '
            f'{problem}: remove the entry, or resume from another checkpoint'
        )


def _state_problem(state: Any) -> str:
    """Return what is wrong with the entry of a checkpoint, the empty text if nothing is."""
    if not isinstance(state, Mapping):
        return f'a {type(state).__name__}'
    run, ranks = state.get('run'), state.get('ranks')
    if not isinstance(run, Mapping) or not isinstance(ranks, list):
        return 'which lacks the dict run or the list ranks'
    for key in ('processes', 'images per process', 'accumulated steps', 'images in the data set'):
        if not isinstance(run.get(key), int) or isinstance(run[key], bool) or run[key] < 1:
            return f'run.{key} is {run.get(key)!r}'
    if not isinstance(run.get('seed'), (int, type(None))):
        return f'run.seed is {run["seed"]!r}'
    epoch = state.get('epoch', {'batches': 0, 'seen': 0})
    for key in ('batches', 'seen'):
        value = epoch.get(key) if isinstance(epoch, Mapping) else None
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            return f'epoch.{key} is {value!r}'
    for number, rank in enumerate(ranks):
        for key, test in _STATE_OF_RANK.items():
            if not isinstance(rank, Mapping) or not test(rank.get(key)):
                return f'ranks.{number}.{key} is of another form'
    return ''


def _is_tensor(dtype: torch.dtype, numel: int | None = None) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, Tensor)
        and value.dtype == dtype
        and (numel is None or value.shape == (numel,))
    )


def _is_number_or_none(value: Any) -> bool:
    return value is None or isinstance(value, float)


def _are_gradients(value: Any) -> bool:
    return value is None or (
        isinstance(value, Mapping) and all(isinstance(part, Tensor) for part in value.values())
    )


_STATE_OF_RANK: dict[str, Callable[[Any], bool]] = {
    'python': _is_tensor(torch.int64, 625),
    'python_gauss': _is_number_or_none,
    'numpy': _is_tensor(torch.int64, 624),
    'numpy_rest': lambda value: (
        isinstance(value, list)
        and [type(part) for part in value] == [int, int, float]
        and 0 <= value[0] <= 624
    ),
    'torch': _is_tensor(torch.uint8, len(torch.get_rng_state())),
    'gradients': _are_gradients,
    'step_counts': lambda value: (
        value is None or (isinstance(value, list) and all(type(count) is int for count in value))
    ),
}


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
    if counts := step_counts(runner.optim_wrapper):
        saved['step_counts'] = counts
    return saved


def _updated(runner: Runner) -> bool:
    """Whether the last iteration ended in an update of the weights."""
    return accumulated_steps(runner.optim_wrapper) == 1 or all(
        wrapper.should_update() for wrapper in inner_wrappers(runner.optim_wrapper)
    )


def _restore_state(saved: Mapping[str, Any], runner: Runner) -> None:
    _restore_generators(saved)
    set_step_counts(runner.optim_wrapper, saved.get('step_counts') or [])
    gradients = saved.get('gradients') or {}
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
    model = unwrap(runner.model)
    return model.named_parameters()
