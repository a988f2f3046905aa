"""Whether the packages of OpenMMLab are installed, and what to install where they are needed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import TracebackType

_STACK = ('mmengine', 'mmcv', 'mmdet')


class MissingStackError(ImportError):
    """MMEngine, MMCV or MMDetection is not installed."""


def is_installed(*packages: str) -> bool:
    """Return whether all of these packages can be found; none of them is imported."""
    return all(_is_found(package) for package in packages)


def _is_found(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:  # an import hook refuses the package
        return False


def require_stack(what: str = 'mmws') -> None:
    """Check that MMEngine, MMCV and MMDetection can be imported, without importing them.

    Layers, conversion, folding and initialisation need PyTorch and torchvision alone. The rooms
    that extend OpenMMLab (registries, hooks, metrics, command lines) call this before they import
    it.

    Args:
        what: What needs the packages, for the message.

    Raises:
        MissingStackError: naming the missing packages and the command that installs them. Two
            distributions provide the same import packages, so mmws depends on neither. A program
            that this error ends prints it alone, in one line, without a traceback.
    """
    missing = [name for name in _STACK if not is_installed(name)]
    if missing:
        _print_without_traceback()
        raise MissingStackError(
            f'{what} needs {", ".join(missing)}: run `pip install "mmws[onedl]"` (the maintained '
            'distributions, for current PyTorch) or `pip install "mmws[openmmlab]"` (the upstream '
            'ones)'
        )


def _print_without_traceback() -> None:
    """Spare the user the traceback of a :class:`MissingStackError`; other errors keep theirs."""
    # A tool fails on its imports, before it has any code that could catch the error.
    previous = sys.excepthook

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if issubclass(kind, MissingStackError):
            print(f'error: {error}', file=sys.stderr)
        else:
            previous(kind, error, traceback)

    sys.excepthook = hook
