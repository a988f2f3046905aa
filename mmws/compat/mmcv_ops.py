"""The module ``mmcv._ext`` for an MMCV that was installed without compiled ops.

This file is executed under that name, see :mod:`mmws.compat.mmcv_ext`. MMCV asks for every op when
``mmcv.ops`` is imported; an op that :mod:`mmws.compat.ops` lacks raises when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any, NoReturn

# Absolute: relative to this module would be relative to mmcv.
from mmws.compat.ops.attention import *  # noqa: F403
from mmws.compat.ops.carafe import *  # noqa: F403
from mmws.compat.ops.deform_conv import *  # noqa: F403
from mmws.compat.ops.deform_roi_pool import *  # noqa: F403
from mmws.compat.ops.focal_loss import *  # noqa: F403
from mmws.compat.ops.masked_conv import *  # noqa: F403
from mmws.compat.ops.roi_align import *  # noqa: F403
from mmws.compat.ops.roi_pool import *  # noqa: F403
from mmws.compat.ops.suppression import *  # noqa: F403
from mmws.compat.ops.sync_bn import *  # noqa: F403


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing_op(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f'mmcv op {name!r} needs an MMCV with compiled ops, built for the installed PyTorch '
            f'by {_build_command()}'
        )

    return missing_op


def _build_command() -> str:
    try:
        metadata.version('onedl-mmcv')
    except metadata.PackageNotFoundError:
        return (
            '`pip uninstall mmcv-lite; MMCV_WITH_OPS=1 pip install --no-build-isolation '
            'mmcv==2.1.0` (https://mmcv.readthedocs.io/en/latest/get_started/build.html)'
        )
    return (
        '`pip install --force-reinstall --no-deps --no-build-isolation --no-cache-dir '
        '--no-binary onedl-mmcv onedl-mmcv` '
        '(https://onedl-mmcv.readthedocs.io/en/latest/get_started/build.html)'
    )


def get_compiler_version() -> str:
    """Return what MMCV reports as the C++ compiler of its ops."""
    return 'not compiled (mmws fallback)'


def get_compiling_cuda_version() -> str:
    """Return what MMCV reports as the CUDA version of its ops."""
    return 'not compiled (mmws fallback)'
