import resource
import sys
from types import SimpleNamespace

import pytest

from mmws.compat.processes import peak_mib
from mmws.engine import console


@pytest.mark.parametrize(('platform', 'unit'), [('linux', 2**10), ('darwin', 1)])
def test_the_memory_of_a_process_is_in_the_unit_of_its_system(monkeypatch, platform, unit):
    # Bug: on macOS the console tells 1024 times the memory, which is counted in bytes there.
    usage = SimpleNamespace(ru_maxrss=3 * 2**30 // unit)
    monkeypatch.setattr(sys, 'platform', platform)
    monkeypatch.setattr(resource, 'getrusage', lambda who: usage)
    monkeypatch.setattr(console.torch.cuda, 'is_available', lambda: False)
    assert peak_mib() == 3 * 2**10
    assert console._memory_used() == 3
