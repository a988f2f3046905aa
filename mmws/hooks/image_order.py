"""The order of images of a training, and the place in it from which a resumed training goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, DataLoader

from mmws.compat.mmengine_private import accumulated_steps, restart_workers
from mmws.data.positions import PositionedBatches, give_positions, set_epoch


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


class EndlessBatches:
    """The batches of an iteration-based loop, from the one after those that were seen.

    MMEngine's own iterator starts its workers when the loop is built, and older versions load and
    throw away all batches that were seen before.
    """

    def __init__(self, loop: IterBasedTrainLoop) -> None:
        self.loader = loop.dataloader
        self.batches: Iterator[Any] | None = None
        # mmengine without `skip_iter` calls `next` once for each batch that was seen before.
        self.calls_to_ignore = 0 if hasattr(loop, 'fast_forward_on_resume') else loop.iter

    def __iter__(self) -> EndlessBatches:
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


def order_images(runner: Runner, saved: Mapping[str, Any], epoch: Mapping[str, int] | None) -> int:
    """Build the sampler of the training anew, at the position of the loop.

    Args:
        runner: With its training loop at the iteration to go on from.
        saved: What :func:`run_facts` was at the checkpoint; empty if the training starts.
        epoch: Batches of the interrupted epoch, and how many of them were seen. Without them, as in
            older checkpoints, they follow from the iterations that are done.

    Returns:
        How many batches the epoch leaves out because they were seen; 0 in a loop without epochs.
    """
    loop, loader = runner.train_loop, runner.train_dataloader
    _rebuild_sampler(runner, saved.get('seed'))
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    skip = _batches_seen(runner, saved, epoch) if by_epoch else loop.iter
    positioned = give_positions(loader, runner.seed, get_rank(), number=loop.iter - skip, skip=skip)
    if not positioned:
        runner.logger.warning(
            f'{type(loader.dataset).__name__} has no indices: a resumed training gets other data '
            'than one that was not interrupted'
        )
        return 0
    if by_epoch and skip:
        runner.logger.info(f'resumed in the middle of epoch {loop.epoch + 1}, at batch {skip + 1}')
        _count_batches_from(loop, skip)
    return skip if by_epoch else 0


def has_positions(loader: DataLoader) -> bool:
    """Whether :func:`order_images` has given the samples of a loader positions."""
    return isinstance(loader.batch_sampler, PositionedBatches)


_LENGTH_OF_EPOCH = ('processes', 'images per process', 'images in the data set')


def _batches_seen(runner: Runner, saved: Mapping[str, Any], epoch: Mapping[str, int] | None) -> int:
    """Return how many batches of an epoch were seen; 0 if its length has changed since then."""
    loop, batches = runner.train_loop, len(runner.train_dataloader)
    if epoch is None:
        now = run_facts(runner)
        changed = any(saved[key] != now[key] for key in _LENGTH_OF_EPOCH if key in saved)
        seen = 0 if changed else loop.iter - loop.epoch * batches
        return seen if 0 <= seen <= batches else 0
    if epoch['batches'] == batches:
        return min(epoch['seen'], batches)
    if epoch['seen']:
        runner.logger.warning(
            f'an epoch has {batches} batches now, {epoch["batches"]} before: epoch '
            f'{loop.epoch + 1}, of which {epoch["seen"]} were seen, begins at its start'
        )
    return 0


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
