"""Import paths that configs and scripts may still name after modules have moved."""

import importlib
import subprocess
import sys

import pytest

from mmws.compat.moved import _MODULES


@pytest.mark.parametrize(
    ('old', 'new'), [*_MODULES.items(), ('mmws.datasets.voc', 'mmws.data.voc')]
)
def test_an_old_module_is_the_new_one_and_warns(old, new):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f'{old} has moved to {new};'):
        module = importlib.import_module(old)
    # Bug: a second copy of the module registers its classes again, and isinstance fails.
    assert module is importlib.import_module(new)
    assert module.__spec__.name == module.__name__ == new


@pytest.mark.parametrize(
    ('package', 'name', 'new'),
    [
        ('mmws.engine', 'CheckpointRecordHook', 'mmws.hooks'),
        ('mmws.engine', 'WeightNormInitHook', 'mmws.hooks'),
        ('mmws.engine', 'load_config', 'mmws.config'),
        ('mmws.compat', 'read_config', 'mmws.config'),
    ],
)
def test_an_old_name_is_the_new_one_and_warns(package, name, new):
    with pytest.warns(DeprecationWarning, match=f'{package}.{name} has moved to {new}.{name};'):
        value = getattr(importlib.import_module(package), name)
    assert value is getattr(importlib.import_module(new), name)


@pytest.mark.parametrize(('old', 'new'), [('KEY', 'META_KEY'), ('record', 'describe_weights')])
def test_a_renamed_function_is_found_by_its_old_name_and_warns(old, new):
    package = importlib.import_module('mmws.checkpoints')
    message = f'mmws.checkpoints.{old} has moved to mmws.checkpoints.{new};'
    with pytest.warns(DeprecationWarning, match=message):
        value = getattr(package, old)
    assert value is getattr(package, new)


@pytest.mark.filterwarnings('ignore:mmws.* has moved to:DeprecationWarning')
def test_a_name_that_never_existed_is_missing():
    with pytest.raises(ImportError, match='cannot import name'):
        from mmws.engine import nothing_of_this_name  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module('mmws.datasets.nothing_of_this_name')


@pytest.mark.slow
def test_custom_imports_of_an_old_path_work(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['mmws.engine.checkpoint_record'])\n")
    code = (
        'from mmengine.config import Config\n'
        f'Config.fromfile({str(config)!r})\n'
        'from mmengine.registry import HOOKS\n'
        "print(HOOKS.get('mmws.CheckpointRecordHook').__module__)\n"
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.strip() == 'mmws.hooks.checkpoint_record', result.stderr
