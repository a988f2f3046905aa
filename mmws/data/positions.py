"""The random numbers of a sample are a function of its position in the training.

PyTorch's data workers each hold a stream of random numbers, which goes on from sample to sample.
After a restart the streams start anew, and the augmentations of the first epoch come again; to
restore them, one would have to know how far each worker had read ahead. Here the random number
generators are seeded before each sample instead, by the seed of the run, the rank and the sample's
place in the order of this rank. A training that goes on at step n then sees the samples that it
would have seen, with any number of workers, and nothing has to be loaded to get there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class RandomState(NamedTuple):
    """The states of the generators of Python, NumPy and PyTorch on the CPU."""

    python: tuple
    numpy: Any
    torch: torch.Tensor

    @classmethod
    def now(cls) -> RandomState:
        """Return the states of the global generators."""
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state())

    def restore(self) -> None:
        """Set the global generators to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave the global generators as they are found, whatever is drawn inside."""
    state = RandomState.now()
    try:
        yield
    finally:
        state.restore()


def seed_generators(*key: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch on the CPU by a key of numbers ≥ 0."""
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(int(words[2]))
    # Not `torch.manual_seed`, which seeds the GPUs as well.
    torch.default_generator.manual_seed(int(words[3]))


class Position(NamedTuple):
    """An index into a data set, with the key of the random numbers for this use of the sample."""

    index: Any
    key: tuple[int, ...]


class SeededItems:
    """What PyTorch's loader calls instead of ``dataset[index]``, if it is ``__getitems__``.

    Args:
        dataset: A map-style data set.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        # Of the data set itself, where it loads whole batches.
        self.load_batch = getattr(dataset, '__getitems__', None)

    def __call__(self, positions: list[Position]) -> list[Any]:
        if get_worker_info() is not None:
            return self._load(positions)
        # In the process that trains, the model draws from the same generators.
        with random_state_kept():
            return self._load(positions)

    def _load(self, positions: list[Position]) -> list[Any]:
        if self.load_batch is not None:
            seed_generators(*positions[0].key)
            return self.load_batch([position.index for position in positions])
        items = []
        for position in positions:
            seed_generators(*position.key)
            items.append(self.dataset[position.index])
        return items


class PositionedBatches:
    """A batch sampler that yields a :class:`Position` for every index.

    What else is asked of it, such as ``sampler``, the batch sampler answers.

    Args:
        batches: The batch sampler. It draws random numbers, if it does, from a stream of its own.
        seed: Seed of the run.
        rank: Rank of this process.
        number: Number of the first batch of the next pass, counted from the start of the training.
        skip: How many batches the first pass leaves out; no sample of them is loaded.
    """

    def __init__(
        self, batches: Any, seed: int, rank: int = 0, number: int = 0, skip: int = 0
    ) -> None:
        self.batches = batches
        self.key = (seed, rank)
        self.number = number
        self.skip = skip
        self.passes = 0
        with random_state_kept():
            seed_generators(*self.key)
            self._drawn_from = RandomState.now()

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        if name == 'batches':
            raise AttributeError(name)
        return getattr(self.batches, name)

    def __iter__(self) -> Iterator[list[Position]]:
        while True:
            batches = self._draw(iter, self.batches)
            while (drawn := self._draw(self._next, batches)) is not None:
                number, batch = drawn
                yield [Position(index, (*self.key, number, i)) for i, index in enumerate(batch)]
            self.passes += 1
            if not self.skip:
                return
            # What was seen before ends in a later pass.
            set_epoch(self.batches, self.passes)

    def _next(self, batches: Iterator[Any]) -> tuple[int, Any] | None:
        for batch in batches:
            number, self.number = self.number, self.number + 1
            if not self.skip:
                return number, batch
            self.skip -= 1
        return None

    def _draw(self, draw: Callable[[Any], Any], of: Any) -> Any:
        before = RandomState.now()
        self._drawn_from.restore()
        try:
            return draw(of)
        finally:
            self._drawn_from = RandomState.now()
            before.restore()


def set_epoch(batches: Any, epoch: int) -> None:
    """Tell the sampler of a batch sampler, where it wants to know, which pass begins."""
    sampler: Any = getattr(batches, 'sampler', None)
    if hasattr(sampler, 'set_epoch'):
        sampler.set_epoch(epoch)


def give_positions(
    loader: DataLoader, seed: int, rank: int = 0, number: int = 0, skip: int = 0
) -> bool:
    """Have a loader seed the random number generators before each sample.

    Call it before the loader is iterated.

    Args:
        loader: Changed in place: its batch sampler, its generator and its data set's
            ``__getitems__``.
        seed: As for :class:`PositionedBatches`.
        rank: As for :class:`PositionedBatches`.
        number: As for :class:`PositionedBatches`.
        skip: As for :class:`PositionedBatches`.

    Returns:
        False, and nothing is changed, for a stream of data without indices or without batches.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return False
    batches = loader.batch_sampler
    if isinstance(batches, PositionedBatches):
        batches = batches.batches
    # A DataLoader refuses a new `batch_sampler` once it is built.
    vars(loader)['batch_sampler'] = PositionedBatches(batches, seed, rank, number, skip)
    # The loader draws a seed for its workers, by default from the generator of the model.
    loader.generator = torch.Generator().manual_seed(seed)
    if not isinstance(getattr(loader.dataset, '__getitems__', None), SeededItems):
        vars(loader.dataset)['__getitems__'] = SeededItems(loader.dataset)
    return True
