import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from mmws.data.positions import RandomState, give_positions, random_state_kept, seed_generators


class Noise(Dataset):
    """Samples of their index and a number of each generator."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), float(torch.rand(1))


class Batches(Noise):
    """Loads whole batches, as Hugging Face's data sets do."""

    def __getitems__(self, indices):
        return [(*self[index], 'batch') for index in indices]


def batches(workers=0, skip=0, number=0, seed=1, rank=0, dataset=Noise, passes=1, **options):
    dataset = dataset()
    sampler = RandomSampler(dataset)
    loader = DataLoader(
        dataset, 2, sampler=sampler, num_workers=workers, collate_fn=list, **options
    )
    assert give_positions(loader, seed, rank, number, skip)
    return [batch for _ in range(passes) for batch in loader]


def test_samples_are_the_same_with_any_number_of_workers():
    # Bug: each worker has a stream of random numbers of its own.
    assert batches(0, passes=2) == batches(1, passes=2) == batches(2, passes=2)


def test_a_later_start_gives_the_rest_and_loads_nothing_else(monkeypatch):
    loaded = []
    load = Noise.__getitem__
    monkeypatch.setattr(Noise, '__getitem__', lambda s, i: loaded.append(i) or load(s, i))
    everything = batches(passes=3)
    loaded.clear()
    assert batches(skip=2) == everything[2:3]
    assert len(loaded) == 2
    # Skipped passes count too: four batches are one pass and one batch.
    assert batches(skip=4)[0] == everything[4]


@pytest.mark.parametrize('change', [dict(seed=2), dict(rank=1), dict(number=1)])
def test_seed_rank_and_position_decide(change):
    assert batches() != batches(**change)


def test_passes_differ():
    # Bug: workers that are started for each epoch repeat the augmentations of the first.
    first, second = np.array(batches(passes=2)).reshape(2, 6, 4)[:, :, 1:]
    assert not set(first.ravel()) & set(second.ravel())


def test_the_generators_of_the_training_are_left_alone():
    seed_generators(5)
    before = RandomState.now()
    batches(passes=2)
    for old, new in zip(before.python, RandomState.now().python, strict=True):
        assert old == new
    assert torch.equal(before.torch, torch.get_rng_state())
    assert (before.numpy[1] == np.random.get_state()[1]).all()


def test_a_data_set_may_load_whole_batches():
    assert all(sample[-1] == 'batch' for batch in batches(dataset=Batches) for sample in batch)
    assert batches(dataset=Batches) == batches(dataset=Batches, workers=1)


def test_a_stream_without_indices_is_left_as_it_is():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    assert not give_positions(DataLoader(Stream()), seed=1)


def test_the_state_is_restored_after_an_error():
    before = torch.get_rng_state()

    @random_state_kept()
    def fail():
        torch.rand(3)
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(before, torch.get_rng_state())
