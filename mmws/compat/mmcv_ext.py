"""How ``mmcv._ext``, MMCV's module of compiled ops, is found where it was not built."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

_NAME = 'mmcv._ext'
_STAND_IN = Path(__file__).with_name('mmcv_ops.py')


class FallbackOpsFinder(MetaPathFinder):
    """Finds ``mmcv._ext`` in ``mmcv_ops.py``, for an MMCV that was installed without compiled ops.

    The spec is a plain source-file spec, so whatever probes for the ops (MMEngine and MMCV do so
    with ``find_spec`` and ``pkgutil``) sees a module like any other.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_file_location(_NAME, _STAND_IN) if fullname == _NAME else None


def install_fallback_ops() -> None:
    """Let ``import mmcv._ext`` succeed where MMCV has no compiled ops.

    The finder is asked last: a compiled ``mmcv._ext`` is always preferred. PyTorch, torchvision
    and MMCV are not imported before something imports ``mmcv._ext``, and calling this again
    changes nothing. Modules that have already failed to import ``mmcv.ops`` are not revisited
    (MMDetection replaces missing ops by functions that raise), so call it before importing them.
    """
    if not any(isinstance(finder, FallbackOpsFinder) for finder in sys.meta_path):
        sys.meta_path.append(FallbackOpsFinder())


def ops_are_compiled() -> bool | None:
    """Return whether MMCV has compiled ops; None if it has neither these nor the stand-in.

    Nothing but the package ``mmcv`` is imported.
    """
    spec = find_spec(_NAME)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin) != _STAND_IN
