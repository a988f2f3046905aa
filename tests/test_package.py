"""What `import mmws` promises, each in a fresh interpreter."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mmws

ROOT = Path(__file__).parents[1]


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize('missing', ['mmengine', 'mmcv', 'mmdet'])
def test_a_missing_package_is_told_in_one_line(missing):
    hide = (
        'import sys\n'
        'import importlib.util as u; real = u.find_spec\n'
        f'u.find_spec = lambda name, *a: None if name == {missing!r} else real(name, *a)\n'
    )
    result = run(f'{hide}import mmws; mmws.Converted')
    assert result.returncode != 0
    # Bug: the one line that helps is the last of a traceback.
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        f'error: mmws.Converted needs {missing}: run `pip install "mmws[onedl]"`'
    )


@pytest.mark.slow
def test_other_errors_keep_their_traceback_when_the_stack_is_missing():
    result = run(
        'import sys, importlib.util as u; u.find_spec = lambda name: None\n'
        'try: import mmws.hooks\n'
        'except ImportError: 1 / 0\n'
    )
    assert 'Traceback' in result.stderr
    assert result.stderr.rstrip().endswith('ZeroDivisionError: division by zero')


@pytest.mark.slow
@pytest.mark.parametrize('custom_imports', [True, False])
def test_layers_resolve_from_a_config_with_or_without_custom_imports(custom_imports):
    # Bug: the user's config fails with "mmws.ConvWS is not in the mmengine::model registry".
    first = 'import mmws; ' if custom_imports else ''
    result = run(
        f'{first}from mmcv.cnn import ConvModule\n'
        "m = ConvModule(4, 64, 3, conv_cfg=dict(type='mmws.ConvWS'), "
        "norm_cfg=dict(type='mmws.GN'))\n"
        'print(type(m.conv).__name__, type(m.gn).__name__)'
    )
    assert result.stdout.split() == ['ConvWS2d', 'GroupNorm'], result.stderr


@pytest.mark.slow
def test_importing_is_cheap_and_public_names_come_when_asked_for():
    # Bug: every program pays for packages that it does not use, or a name is listed that does not
    # exist.
    result = run(
        'import sys, mmws\n'
        "heavy = [m for m in ('mmengine', 'mmdet', 'mmcv', 'mmws.layers', 'mmws.engine') "
        'if m in sys.modules]\n'
        'assert not heavy, heavy\n'
        'for name in mmws.__all__: getattr(mmws, name)\n'
        'assert set(mmws.__all__) <= set(dir(mmws))\n'
    )
    assert result.returncode == 0, result.stderr


def test_type_checkers_see_the_names_that_there_are_at_run_time():
    # Bug: an editor completes a name that cannot be imported, or misses one.
    tree = ast.parse((ROOT / 'mmws' / '__init__.py').read_text())
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
    )
    static = {
        (f'mmws.{node.module}', alias.name)
        for node in block.body
        for alias in node.names
        if alias.name == alias.asname  # the form that re-exports a name
    }
    assert static == {
        (f'mmws.{room}', name) for room, names in mmws._PUBLIC.items() for name in names
    }
    assert {name for _, name in static} == set(mmws.__all__) - {'__version__'}


@pytest.mark.slow
@pytest.mark.parametrize('first', ['mmws', 'mmengine'])
def test_mmengine_is_extended_in_either_order_of_imports(first):
    # Bug: without the ops, classes, guard or config package, training stops or loads wrong weights.
    second = 'mmengine' if first == 'mmws' else 'mmws'
    result = run(
        f'import {first}, {second}, mmengine.runner, torch\n'
        'from mmengine.config.utils import MODULE2PACKAGE\n'
        'from mmengine.logging import HistoryBuffer, MMLogger\n'
        "assert MODULE2PACKAGE['mmws'] == 'mmws.registry'\n"
        'assert HistoryBuffer in torch.serialization.get_safe_globals()\n'
        "assert hasattr(mmengine.runner.load_state_dict, '__wrapped__')\n"
        "assert hasattr(mmengine.runner.checkpoint.load_state_dict, '__wrapped__')\n"
        'import mmcv.ops\n'
        "logger = MMLogger.get_instance('training', file_mode='w', log_file=None)\n"
        'mmws.GroupNorm(46)\n'
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count('46 channels') + result.stdout.count('46 channels') == 1
