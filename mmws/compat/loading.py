"""Reading checkpoint files with PyTorch's check of their classes on."""

from __future__ import annotations

import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from .sources import remember_source
from .stack import is_installed


def allow_checkpoint_classes() -> None:
    """Let ``torch.load(weights_only=True)`` read the checkpoints that MMEngine writes.

    PyTorch ≥ 2.6 refuses every class that it does not know. MMEngine keeps its log history in a
    checkpoint as :class:`mmengine.logging.HistoryBuffer`, which holds NumPy arrays and refers to
    its own methods. Only these are allow-listed; the check itself stays on. Imports MMEngine, and
    does nothing where it is not installed, or with an older PyTorch, which does not check by
    default.
    """
    release = tuple(map(int, torch.__version__.split('.')[:2]))
    if release < (2, 6) or not is_installed('mmengine'):
        return
    from mmengine.logging.history_buffer import HistoryBuffer

    multiarray = (np._core if hasattr(np, '_core') else np.core).multiarray
    dtypes = {type(np.dtype(kind)) for kind in ('f4', 'f8', 'i4', 'i8', 'u1', 'u4', '?')}
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            # The pickle spells a method `getattr(HistoryBuffer, 'mean')`. The built-in, allowed as
            # it is, would hand a file any attribute of any class.
            (_history_buffer_method, 'builtins.getattr'),
            np.ndarray,
            np.dtype,
            *dtypes,
            # NumPy 1 writes numpy.core, NumPy 2 numpy._core; either reads the other's files.
            *(
                (getattr(multiarray, name), f'numpy.{core}.multiarray.{name}')
                for name in ('_reconstruct', 'scalar')
                for core in ('core', '_core')
            ),
        ]
    )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file with PyTorch's check on, mapped into memory where it can be.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint, incomplete, or holds other classes than those that
            PyTorch and :func:`allow_checkpoint_classes` allow.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    # Once more: a `safe_globals` context that ends elsewhere takes away what it had in common.
    allow_checkpoint_classes()
    try:
        mmap = zipfile.is_zipfile(path)  # files of PyTorch < 1.6 cannot be mapped
        checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    except Exception as error:
        # Whatever is in the file decides what is raised.
        raise ValueError(
            f'checkpoint {path} cannot be read ({type(error).__name__}): it is incomplete, no '
            'PyTorch file, or holds classes that are not allowed'
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'checkpoint {path} holds a {type(checkpoint).__name__}, not weights')
    remember_source(checkpoint, str(path))
    return checkpoint


def _history_buffer_method(owner: Any, name: str) -> Any:
    from mmengine.logging.history_buffer import HistoryBuffer

    methods = ('min', 'max', 'mean', 'current')
    if owner is HistoryBuffer and name in methods:
        return getattr(HistoryBuffer, name)
    raise UnpicklingError(f'{owner!r}.{name} is none of the methods {methods} of a log')
