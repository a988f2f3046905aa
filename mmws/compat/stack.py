import sys
from importlib.util import find_spec


class MissingStackError(ImportError):
    """MMEngine, MMCV or MMDetection is not installed."""


def require_stack() -> None:
    """Check that MMEngine, MMCV and MMDetection can be imported, without importing them.

    Raises:
        MissingStackError: naming the missing packages and the command that installs them. Two
            distributions provide the same import packages, so mmws depends on neither. A program
            that this error ends prints it alone, in one line, without a traceback.
    """
    missing = [name for name in ('mmengine', 'mmcv', 'mmdet') if find_spec(name) is None]
    if missing:
        _print_without_traceback()
        raise MissingStackError(
            f'mmws needs {", ".join(missing)}: run `pip install "mmws[onedl]"` (the maintained '
            'distributions, for current PyTorch) or `pip install "mmws[openmmlab]"` (the upstream '
            'ones)'
        )


def _print_without_traceback() -> None:
    """Spare the user the traceback of a :class:`MissingStackError`; other errors keep theirs."""
    # Every tool imports mmws, and nothing that could catch the error for them, first.
    previous = sys.excepthook

    def hook(kind, error, traceback) -> None:
        if issubclass(kind, MissingStackError):
            print(f'error: {error}', file=sys.stderr)
        else:
            previous(kind, error, traceback)

    sys.excepthook = hook
