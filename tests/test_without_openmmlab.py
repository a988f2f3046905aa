"""An environment without MMEngine, MMCV and MMDetection, played by an import hook."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('mmengine', 'mmcv', 'mmdet'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a program that cannot import OpenMMLab's packages."""
    return subprocess.run(
        [sys.executable, '-c', BLOCK + code, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_core_works():
    # Bug: a layer, convert, fold or init_weight_norm imports one of the packages.
    result = run(
        'import pytest\n'
        "options = ['--noconftest', '-p', 'no:cacheprovider', '-W', 'ignore']\n"
        "code = pytest.main(['tests/core', *options])\n"
        "assert not {'mmengine', 'mmcv', 'mmdet'} & set(sys.modules)\n"
        'sys.exit(code)\n'
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]


def test_what_extends_openmmlab_says_in_one_line_what_to_install():
    # Bug: the user reads "No module named 'mmengine'" below a traceback.
    result = run(
        'import mmws\n'
        'from mmws.registry import MODELS\n'
        'def build(): MODELS.build(dict(type="mmws.ConvWS"))\n'
        'def hook(): import mmws.hooks\n'
        'def metric(): mmws.CocoMetric\n'
        'for use in build, hook, metric:\n'
        '    try: use()\n'
        '    except mmws.compat.MissingStackError as error: print(error)\n'
        'mmws.Converted\n'
    )
    assert result.returncode != 0
    *caught, uncaught = [*result.stdout.splitlines(), *result.stderr.splitlines()]
    needs = 'needs mmengine, mmcv, mmdet: run `pip install "mmws[onedl]"`'
    whats = ('building from a config', 'mmws.hooks', 'mmws.evaluation')
    for what, line in zip(whats, caught, strict=True):
        assert line.startswith(f'{what} {needs}')
    assert uncaught.startswith(f'error: mmws.Converted {needs}')


def test_every_tool_says_what_to_install():
    result = run(
        'import runpy\n'
        'from pathlib import Path\n'
        'from mmws.compat import MissingStackError\n'
        "sys.path.insert(0, '.')\n"
        "for tool in sorted(Path('tools').glob('*.py')):\n"
        '    try:\n'
        "        runpy.run_path(str(tool), run_name='tool')\n"
        "        print(tool, 'does not ask for OpenMMLab')\n"
        '    except MissingStackError:\n'
        '        pass\n'
        '    except ImportError as error:\n'
        "        print(f'{tool}: {error}')\n"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ''
