import importlib
import sys

import pytest

from mmws.compat import when_imported


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of a module that nobody has imported."""
    (tmp_path / 'imported_later.py').write_text('value = 1\n')
    monkeypatch.syspath_prepend(tmp_path)
    yield 'imported_later'
    sys.modules.pop('imported_later', None)


def test_an_action_waits_for_the_module_to_be_executed(module):
    # Bug: the module is imported for the action, or the action sees it half executed.
    seen = []

    def action(imported):
        seen.append(imported.value)

    when_imported(module, action)
    when_imported(module, action)
    assert module not in sys.modules
    assert seen == []
    importlib.import_module(module)
    assert seen == [1]


def test_an_action_runs_at_once_for_a_module_that_is_there(module):
    # Bug: `import mmengine` before `import mmws` leaves MMEngine as it is.
    imported, seen = importlib.import_module(module), []
    when_imported(module, seen.append)
    assert seen == [imported]
