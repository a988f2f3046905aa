"""How `mmcv._ext` is found, with and without compiled ops."""

import ast
import os
import re
import subprocess
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.utils.dl_utils import mmcv_full_available

import mmws
from mmws.compat import install_fallback_ops, ops_are_compiled
from mmws.compat.mmcv_ext import FallbackOpsFinder

pytestmark = pytest.mark.slow

FALLBACK = not ops_are_compiled()
only_fallback = pytest.mark.skipif(not FALLBACK, reason='MMCV has compiled ops here')


def run_python(code: str, *path: Path) -> str:
    """What `code` prints in a fresh interpreter with `path` in front of the other packages."""
    path = [*map(str, path), str(Path(mmws.__file__).parents[1]), os.environ.get('PYTHONPATH', '')]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(path)}
    done = subprocess.run(
        [sys.executable, '-c', code], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_spec_is_real():
    # A spec without loader or file satisfies hasattr checks, but breaks the probes of MMEngine.
    spec = find_spec('mmcv._ext')
    assert spec.name == 'mmcv._ext'
    assert spec.loader is not None
    assert Path(spec.origin).is_file()
    assert mmcv_full_available()


def test_finder_answers_for_one_name_only():
    # Claiming more would turn every failed import below mmcv into the fallback ops.
    finder = FallbackOpsFinder()
    assert finder.find_spec('mmcv._ext').name == 'mmcv._ext'
    for name in ('_ext', 'mmcv', 'mmcv.ops', 'mmcv._ext.nms', 'mmcv._ext2'):
        assert finder.find_spec(name) is None


def test_installed_once_and_asked_last():
    # Twice: a finder per import of mmws. Before PathFinder: it would hide a compiled mmcv._ext.
    install_fallback_ops()
    ours = [isinstance(finder, FallbackOpsFinder) for finder in sys.meta_path]
    assert sum(ours) == 1
    assert ours.index(True) > sys.meta_path.index(PathFinder)


def test_compiled_ops_are_preferred(tmp_path):
    # The fallback would silently replace the fast ops of whoever built them.
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').touch()
    (tmp_path / 'mmcv' / '_ext.py').write_text("nms = 'compiled'\n")
    assert run_python('import mmws, mmcv._ext; print(mmcv._ext.nms)', tmp_path) == 'compiled'
    code = 'from mmws.compat import ops_are_compiled; print(ops_are_compiled())'
    assert run_python(code, tmp_path) == 'True'


def test_import_mmws_is_cheap():
    # torchvision and mmcv.ops take seconds to import, and only detectors need them.
    code = "import sys, mmws; print([m for m in ('torchvision', 'mmcv.ops') if m in sys.modules])"
    assert run_python(code) == '[]'


@only_fallback
def test_missing_op_raises_when_called_and_says_what_to_do():
    # Raising earlier breaks `import mmcv.ops`; a bare error leaves the user to search for it.
    import mmcv._ext

    assert hasattr(mmcv._ext, 'upfirdn2d')
    with pytest.raises(NotImplementedError, match=r"'upfirdn2d'.*pip install") as error:
        mmcv._ext.upfirdn2d(1, scale=2)
    assert '\n' not in str(error.value)


@only_fallback
def test_missing_op_through_mmcv():
    # Through MMCV, the error must name the op that is missing and not, say, the first one loaded.
    import torch
    from mmcv.ops import nms_rotated

    with pytest.raises(NotImplementedError, match="'nms_rotated'"):
        nms_rotated(torch.rand(3, 5), torch.rand(3), 0.5)


@only_fallback
def test_private_names_are_missing():
    # If every name existed, import machinery, pickle and inspect would call ops as their hooks.
    import mmcv._ext

    for name in ('__path__', '__wrapped__', '__all__', '_private'):
        assert not hasattr(mmcv._ext, name)


def test_versions_are_printable():
    # collect_env prints both; None or an exception would end training before it starts.
    from mmcv.ops import get_compiler_version, get_compiling_cuda_version

    assert isinstance(get_compiler_version(), str)
    assert isinstance(get_compiling_cuda_version(), str)
    if FALLBACK:
        assert 'mmws' in get_compiler_version()


@only_fallback
def test_every_op_that_mmdetection_imports_is_answered():
    # Bug: a model builds and trains, and fails at the one layer whose op is missing.
    import mmcv._ext
    import mmcv.ops
    import mmdet

    folder = Path(mmdet.__file__).parent
    imported = set()
    for path in folder.rglob('*.py'):
        if '.mim' in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('mmcv.ops'):
                imported.update(alias.name for alias in node.names)
    # `from mmcv import ops` and the registry reach these.
    imported |= {'RoIAlign', 'RoIPool', 'SimpleRoIAlign', 'DeformRoIPoolPack', 'SyncBatchNorm'}
    imported |= {'ModulatedDeformRoIPoolPack', 'DeformConv2dPack', 'ModulatedDeformConv2dPack'}
    assert {'MaskedConv2d', 'CARAFEPack', 'CornerPool', 'batched_nms'} <= imported
    source = ast.parse(Path(mmcv.ops.__file__).read_text('utf-8'))
    modules = {
        node.module
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and imported & {alias.name for alias in node.names}
    }
    assert {'carafe', 'nms', 'masked_conv', 'sync_bn', 'deform_conv'} <= modules
    asked = {
        name
        for module in modules
        for name in re.findall(
            r'ext_module\.(\w+)',
            Path(mmcv.ops.__file__).with_name(f'{module}.py').read_text('utf-8'),
        )
    }
    of_rotated_boxes = {'nms_rotated', 'nms_quadri'}  # in the module of nms, for MMRotate
    assert {'carafe_forward', 'deform_roi_pool_backward', 'masked_im2col_forward'} <= asked
    missing = [
        name
        for name in sorted(asked - of_rotated_boxes)
        if getattr(mmcv._ext, name).__name__ == 'missing_op'
    ]
    assert not missing
