import multiprocessing
import os

import pytest
import torch
from torch.utils.data import DataLoader

from mmws.hooks.data_workers import tie_workers


@pytest.mark.slow
@pytest.mark.skipif(os.name != 'posix', reason='workers are not tied to their parent')
@pytest.mark.parametrize('method', ['fork', 'forkserver', 'spawn'])
def test_workers_live_however_they_are_started(method):
    # Bug: workers of a fork server are killed at once: the process that trains is not their parent.
    context = multiprocessing.get_context(method)
    loader = DataLoader(torch.arange(6), num_workers=2, multiprocessing_context=context)
    tie_workers(loader)
    assert torch.cat(list(loader)).tolist() == list(range(6))
