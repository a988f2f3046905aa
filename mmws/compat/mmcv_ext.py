from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path


class FallbackOpsFinder(MetaPathFinder):
    """Finds ``mmcv._ext`` in ``mmcv_ops.py``, for an MMCV that was installed without compiled ops.

    The spec is a plain source-file spec, so whatever probes for the ops (MMEngine and MMCV do so
    with ``find_spec`` and ``pkgutil``) sees a module like any other.
    """

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if fullname != 'mmcv._ext':
            return None
        return spec_from_file_location(fullname, Path(__file__).with_name('mmcv_ops.py'))


def install_fallback_ops() -> None:
    """Let ``import mmcv._ext`` succeed where MMCV has no compiled ops.

    The finder is asked last: a compiled ``mmcv._ext`` is always preferred. PyTorch, torchvision
    and MMCV are not imported before something imports ``mmcv._ext``, and calling this again
    changes nothing. Modules that have already failed to import ``mmcv.ops`` are not revisited
    (MMDetection replaces missing ops by functions that raise), so call it before importing them.
    """
    if not any(isinstance(finder, FallbackOpsFinder) for finder in sys.meta_path):
        sys.meta_path.append(FallbackOpsFinder())
