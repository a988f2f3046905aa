"""An environment without MMEngine, MMCV and MMDetection, played by an import hook."""

import pytest

from tests.helpers.processes import run_code

BLOCK = """
import sys

missing = {"mmengine", "mmcv", "mmdet"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in missing:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Blocker())
"""
NEEDS = 'needs mmengine, mmcv, mmdet: run `pip install "mmws[onedl]"`'


@pytest.mark.slow
def test_the_core_works():
    # Bug: a layer, convert, fold, init_weight_norm or the example imports one of the packages.
    run_code(
        BLOCK + 'import pytest\n'
        "options = ['--noconftest', '-p', 'no:cacheprovider', '-W', 'ignore']\n"
        "code = pytest.main(['tests/core', *options])\n"
        "assert not {'mmengine', 'mmcv', 'mmdet'} & set(sys.modules)\n"
        'sys.exit(code)\n',
        timeout=600,
    )


@pytest.mark.slow
def test_what_extends_openmmlab_says_in_one_line_what_to_install():
    # Bug: the user reads "No module named 'mmengine'" below a traceback.
    output = run_code(
        BLOCK + 'import mmws\n'
        'from mmws.registry import MODELS\n'
        'def build(): MODELS.build(dict(type="mmws.ConvWS"))\n'
        'def hook(): import mmws.hooks\n'
        'def metric(): mmws.CocoMetric\n'
        'def config(): from mmws.config import load_config\n'
        'for use in build, hook, metric, config:\n'
        '    try: use()\n'
        '    except mmws.compat.MissingStackError as error: print(error, flush=True)\n'
        'mmws.Converted\n',
        code=1,
    )
    *caught, uncaught = output.splitlines()
    whats = ('building from a config', 'mmws.hooks', 'mmws.evaluation', 'mmws.config')
    for what, line in zip(whats, caught, strict=True):
        assert line.startswith(f'{what} {NEEDS}')
    assert uncaught.startswith(f'error: mmws.Converted {NEEDS}')


@pytest.mark.slow
def test_every_tool_says_what_to_install():
    # Bug: a tool imports MMEngine, or a library of one of its features, before it says so.
    output = run_code(
        BLOCK + 'import runpy\n'
        'missing |= {"cv2", "matplotlib", "pycocotools", "terminaltables"}\n'
        'from pathlib import Path\n'
        'from mmws.compat import MissingStackError\n'
        "tools = [p for p in Path('tools').rglob('*.py') if 'dev' not in p.parts]\n"
        'for tool in sorted(tools):\n'
        '    try:\n'
        "        runpy.run_path(str(tool), run_name='tool')\n"
        "        print(tool, 'does not ask for OpenMMLab')\n"
        '    except MissingStackError:\n'
        '        pass\n'
        '    except ImportError as error:\n'
        "        print(f'{tool}: {error}')\n"
    )
    assert output == ''
