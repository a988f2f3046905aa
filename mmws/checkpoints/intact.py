"""Which of the checkpoints of a training can be resumed from, and why others cannot."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmws.compat import CheckpointError, read_checkpoint

from .checkpoint import Checkpoint

LAST_CHECKPOINT = 'last_checkpoint'
"""Name of the file in a work dir that holds the path of the newest checkpoint."""


class NonFiniteError(CheckpointError):
    """Weights that hold NaN or infinity."""


class Found(NamedTuple):
    """The checkpoint to resume from.

    Attributes:
        path: The newest intact one; None where there is no checkpoint at all.
        skipped: For each newer checkpoint, in one line, why it cannot be resumed from.
        checkpoint: What it holds, with its tensors mapped into memory.
    """

    path: Path | None
    skipped: list[str]
    checkpoint: Checkpoint | None = None


def find_intact(work_dir: str | Path) -> Found:
    """Return the newest checkpoint of a training that is whole, undamaged and finite.

    The newest is the one that was written last; of those of one second, that of the latest
    iteration. All ``*.pth`` files in ``work_dir`` are looked at, and those beside the one that
    ``last_checkpoint`` names, with files that are named like that one, numbers aside; except files
    of weights alone, such as ``best_*.pth``.

    Raises:
        CheckpointError: if there are checkpoints of this training but none is intact, or if
            ``last_checkpoint`` names a file and there is no checkpoint to resume from.
    """
    skipped: list[str] = []
    resumable: list[tuple[str, int, Path]] = []
    named = _named_checkpoint(Path(work_dir))
    for path in _checkpoint_files(Path(work_dir), named):
        try:
            contents = read_checkpoint(path)
            if 'optimizer' in contents:
                check_resumable(contents, str(path))
                meta = contents['meta']
                resumable.append((str(meta.get('time', '')), meta['iter'], path))
        except (CheckpointError, OSError) as error:
            if not path.name.startswith('best_'):
                skipped.append(str(error))
    for _, _, path in sorted(resumable, reverse=True):
        try:
            checkpoint = read_intact(path)
        except (CheckpointError, OSError) as error:
            skipped.append(str(error))
        else:
            return Found(path, skipped, checkpoint)
    if skipped:
        raise CheckpointError(
            f'no checkpoint in {work_dir} is intact ({"; ".join(skipped)}): move them away to '
            'start anew'
        )
    if named:
        state = (
            'holds no state of a training, as with save_optimizer=False'
            if os.path.isfile(named)
            else 'is not a file on this machine'
        )
        raise CheckpointError(
            f'{Path(work_dir, LAST_CHECKPOINT)} names {named[:300]!r}, which {state}, '
            'and there is no other to resume from: bring it back, name one in `resume`, or remove '
            'last_checkpoint to start anew'
        )
    return Found(None, [])


def _named_checkpoint(work_dir: Path) -> str:
    """Return what ``last_checkpoint`` holds, the empty text if it is empty or not there."""
    pointer = work_dir / LAST_CHECKPOINT
    return pointer.read_text(errors='replace').strip() if pointer.is_file() else ''


def _checkpoint_files(work_dir: Path, named: str) -> list[Path]:
    """Return the files that may be checkpoints of a training.

    Args:
        work_dir: Of the training.
        named: The file that ``last_checkpoint`` names; its name follows from ``filename_tmpl``.
    """
    folders = [work_dir]
    if named and os.path.isfile(named):
        folders.append(Path(named).parent)
    parts = re.split(r'\d+', Path(named).name) if named else []
    is_like_named = re.compile(r'\d+'.join(map(re.escape, parts)))
    files = {
        path.resolve(): path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix == '.pth' or (named and is_like_named.fullmatch(path.name))
    }
    return [path for path in files.values() if path.is_file()]


# What `zipfile` raises for damaged files; `OSError` for a seek to a place before the file.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


def check_undamaged(path: str | Path) -> None:
    """Compare all of a checkpoint with the checksums in it.

    PyTorch writes zip files, which hold a CRC-32 of each tensor; PyTorch does not look at them
    when it loads. Files of PyTorch < 1.6 have none and pass.

    Raises:
        CheckpointError: naming the part of the file that has changed since it was written.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except _DAMAGED as error:
        raise CheckpointError(f'checkpoint {path} is damaged: {error}') from error
    if damaged is not None:
        raise CheckpointError(
            f'checkpoint {path} is damaged: {damaged} in it has another checksum than when it was '
            'written'
        )


def read_intact(path: str | Path) -> Checkpoint:
    """Read a checkpoint that is undamaged and finite.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it cannot be read, is damaged, or has weights that are not finite.
    """
    check_undamaged(path)
    checkpoint = Checkpoint.read(path)
    check_finite(checkpoint.contents, f'checkpoint {path}')
    return checkpoint


def check_resumable(checkpoint: Mapping[str, Any], source: str) -> None:
    """Check that a checkpoint holds the state of a training, not its weights alone.

    Raises:
        CheckpointError: naming what is missing.
    """
    kinds = {'state_dict': Mapping, 'message_hub': Mapping, 'optimizer': Mapping, 'meta': Mapping}
    missing = [key for key, kind in kinds.items() if not isinstance(checkpoint.get(key), kind)]
    if 'meta' not in missing:
        meta = checkpoint['meta']
        missing += [f'meta.{key}' for key in ('epoch', 'iter') if not _is_count(meta.get(key))]
    if missing:
        raise CheckpointError(
            f'checkpoint {source} cannot be resumed, it lacks {", ".join(missing)}: to start a '
            'training from its weights, set load_from to it'
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def check_finite(checkpoint: Mapping[str, Any], source: str) -> None:
    """Check that no weight of a checkpoint is NaN or infinite.

    Buffers of 0 and -inf, as attention masks are, pass.

    Args:
        checkpoint: A state dict, or a dict with ``state_dict`` and ``ema_state_dict``.
        source: How messages call it.

    Raises:
        NonFiniteError: naming the first such weight.
        CheckpointError: if ``state_dict`` is no dict.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, Mapping):
        raise CheckpointError(
            f'{source} holds no weights: its state_dict is a {type(weights).__name__}'
        )
    name = first_nonfinite(weights)
    if name is None and isinstance(checkpoint.get('ema_state_dict'), Mapping):
        name = first_nonfinite(checkpoint['ema_state_dict'])
    if name is not None:
        raise NonFiniteError(f'{source} is not finite: {name} holds NaN or infinity')


_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def first_nonfinite(weights: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity, None if there is none.

    All tensors are looked at in one call, and the answer waited for once.
    """
    tensors = {
        name: value.detach()
        for name, value in weights.items()
        if isinstance(value, Tensor) and value.dtype in _DTYPES and value.numel()
    }
    if all_finite(list(tensors.values())):
        return None
    for name, value in tensors.items():
        # The norm of finite values may overflow, so only the values themselves decide.
        if not value.isfinite().all() and not _is_mask(value):
            return name
    return None


def all_finite(tensors: list[Tensor]) -> bool:
    """Whether the norms of all tensors are finite; one call for all, and one wait for the answer.

    A norm may overflow where all values are finite, which is to be looked at again.
    """
    if not tensors:
        return True
    norms = torch._foreach_norm(tensors, float('inf'))
    return bool(torch.stack([norm.float() for norm in norms]).isfinite().all())


def _is_mask(value: Tensor) -> bool:
    return bool(((value == 0) | (value == float('-inf'))).all())
