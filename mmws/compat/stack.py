from importlib.util import find_spec


def require_stack() -> None:
    """Check that MMEngine, MMCV and MMDetection can be imported, without importing them.

    Raises:
        ImportError: naming the missing packages and the command that installs them. Two
            distributions provide the same import packages, so mmws depends on neither.
    """
    missing = [name for name in ('mmengine', 'mmcv', 'mmdet') if find_spec(name) is None]
    if missing:
        raise ImportError(
            f'mmws needs {", ".join(missing)}: run `pip install "mmws[onedl]"` (the maintained '
            'distributions, for current PyTorch) or `pip install "mmws[openmmlab]"` (the upstream '
            'ones)'
        )
