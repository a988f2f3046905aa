"""Import paths of mmws 0.1 that configs may still name: they work, and warn with the new path."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Old module -> new module. The submodules of a package move with it.
_MODULES = {
    'mmws.compat.config': 'mmws.config.read',
    'mmws.config_code': 'mmws.config.code',
    'mmws.datasets': 'mmws.data',
    'mmws.engine.browse': 'mmws.visualization.browse',
    'mmws.engine.cfg_options': 'mmws.config.typos',
    'mmws.engine.checkpoint_record': 'mmws.hooks.checkpoint_record',
    'mmws.engine.drawing': 'mmws.visualization.drawing',
    'mmws.engine.predict': 'mmws.visualization.predict',
    'mmws.engine.report': 'mmws.visualization.report',
    'mmws.engine.running': 'mmws.engine.run',
    'mmws.engine.weight_norm_init': 'mmws.hooks.weight_norm_init',
    'mmws.surgery.compare': 'mmws.testing.compare',
    'mmws.surgery.trial': 'mmws.testing.trial',
}


def redirect_moved_modules() -> None:
    """Let ``import`` find modules under the names that they had before; calling it again is free.

    The finder is asked before all others: once ``mmws.datasets`` is the module ``mmws.data``,
    Python would find ``mmws.datasets.voc`` in its folder and execute it a second time.
    """
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MovedFinder())


def moved_names(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package whose public names now live elsewhere.

    Args:
        package: The package that had the names.
        names: For each name the module that has it now, ``module:name`` if it is renamed as well.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        module, _, renamed = names[name].partition(':')
        current = renamed or name
        _warn(f'{package}.{name}', f'{module}.{current}', stacklevel=3)
        return getattr(import_module(module), current)

    return __getattr__


def _warn(old: str, new: str, stacklevel: int) -> None:
    warnings.warn(
        f'{old} has moved to {new}; the old name will be removed in mmws 0.3',
        DeprecationWarning,
        stacklevel=stacklevel,
    )


class _MovedFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith('mmws.'):
            return None
        for old, new in _MODULES.items():
            if fullname == old or fullname.startswith(f'{old}.'):
                current = new + fullname[len(old) :]
                _warn(fullname, current, stacklevel=2)
                return ModuleSpec(fullname, _AliasLoader(current))
        return None


class _AliasLoader(Loader):
    """Loads the current module under its old name: the same module object, executed once."""

    def __init__(self, current: str) -> None:
        self._current = current

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self._current)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # importlib has put the spec of the old name into the module before it calls this.
        module.__spec__ = self._spec
