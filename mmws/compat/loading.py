"""Reading checkpoint files with PyTorch's check of their classes on."""

from __future__ import annotations

import zipfile
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch

from .sources import remember_source
from .stack import is_installed

_HOSTS_WITH_HASHES = ('download.openmmlab.com', 'download.pytorch.org')


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


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that does not hold what it is wanted for."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file with PyTorch's check on, mapped into memory where it can be.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is no checkpoint, incomplete, or holds other classes than those that
            PyTorch and :func:`allow_checkpoint_classes` allow.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    checkpoint = load_safely(path, 'cpu', mmap=zipfile.is_zipfile(path))
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'checkpoint {path} holds a {type(checkpoint).__name__}, not weights')
    remember_source(checkpoint, str(path))
    return checkpoint


def load_safely(
    file: Any,
    map_location: Any = None,
    weights_only: bool | None = None,
    mmap: bool | None = None,
    name: str = '',
) -> Any:
    """Load a file with PyTorch's check on, whatever ``weights_only`` says.

    Args:
        file: Path or open file.
        map_location: As for :func:`torch.load`.
        weights_only: Ignored; MMEngine's callers pass it.
        mmap: Map the file into memory; files of PyTorch < 1.6 cannot be mapped.
        name: How messages call the file.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if the file cannot be read with the check on.
    """
    # Once more: a `safe_globals` context that ends elsewhere takes away what it had in common.
    allow_checkpoint_classes()
    try:
        return torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:
        # Whatever is in the file decides what is raised.
        raise CheckpointError(
            f'checkpoint {name or file} cannot be read ({type(error).__name__}): it is incomplete, '
            'no PyTorch file, or holds classes that are not allowed'
        ) from error


def load_url_safely(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
) -> Any:
    """Download a file, unless it was before, and load it with PyTorch's check on.

    Takes the place of :func:`torch.hub.load_state_dict_from_url`, which unpickles what it gets.
    Files of OpenMMLab and PyTorch end in the first digits of their SHA-256, which are checked.

    Raises:
        CheckpointError: if the server does not send the file, or the file has another hash or
            cannot be read with the check on.
    """
    folder = Path(model_dir or Path(torch.hub.get_dir(), 'checkpoints'))
    address = urlparse(url)
    path = folder / (file_name or PurePosixPath(address.path).name)
    if not path.exists():
        digits = torch.hub.HASH_REGEX.search(path.name)
        known = check_hash or address.hostname in _HOSTS_WITH_HASHES
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                url, str(path), digits.group(1) if digits and known else None, progress
            )
        except (OSError, HTTPException, RuntimeError, ValueError) as error:
            reason = ' '.join(str(error).split()) or type(error).__name__
            raise CheckpointError(f'checkpoint {url} cannot be downloaded: {reason}') from error
    try:
        return load_safely(path, map_location, name=url)
    except CheckpointError as error:
        # A broken connection leaves a part of the file, which would be taken for all of it.
        raise CheckpointError(f'{error} (downloaded to {path}: delete it to try again)') from error


def _history_buffer_method(owner: Any, name: str) -> Any:
    from mmengine.logging.history_buffer import HistoryBuffer

    methods = ('min', 'max', 'mean', 'current')
    if owner is HistoryBuffer and name in methods:
        return getattr(HistoryBuffer, name)
    raise UnpicklingError(f'{owner!r}.{name} is none of the methods {methods} of a log')
