"""What `import mmws` promises, each in a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize('missing', ['mmengine', 'mmcv', 'mmdet'])
def test_a_missing_package_is_told_in_one_line(missing):
    hide = (
        'import sys\n'
        'import importlib.util as u; real = u.find_spec\n'
        f'u.find_spec = lambda name, *a: None if name == {missing!r} else real(name, *a)\n'
    )
    result = run(f'{hide}import mmws')
    assert result.returncode != 0
    # Bug: the one line that helps is the last of a traceback.
    (line,) = result.stderr.splitlines()
    assert line.startswith(f'error: mmws needs {missing}: run `pip install "mmws[onedl]"`')


def test_other_errors_keep_their_traceback_when_the_stack_is_missing():
    result = run(
        'import sys, importlib.util as u; u.find_spec = lambda name: None\n'
        'try: import mmws\n'
        'except ImportError: 1 / 0\n'
    )
    assert 'Traceback' in result.stderr
    assert result.stderr.rstrip().endswith('ZeroDivisionError: division by zero')


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


def test_importing_is_cheap_and_public_names_come_when_asked_for():
    # Bug: every command line pays for mmdet, or a name is listed that does not exist.
    result = run(
        'import sys, mmws\n'
        "heavy = [m for m in ('mmdet', 'mmcv.ops', 'mmws.layers', 'mmws.engine') "
        'if m in sys.modules]\n'
        'assert not heavy, heavy\n'
        'for name in mmws.__all__: getattr(mmws, name)\n'
        'assert set(mmws.__all__) <= set(dir(mmws))\n'
    )
    assert result.returncode == 0, result.stderr
