"""Unpack archives that may be damaged, or made to write outside of their folder."""

import errno
import gzip
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from mmws.files import DRAFT_SUFFIX


class UnsafeArchiveError(ValueError, tarfile.FilterError):
    """An archive with an entry that would be written somewhere else, or is no file."""


def unpack(path: Path, folder: Path, top: str = '') -> None:
    """Unpack a tar or zip archive beside it, then move what is in it to its place.

    Args:
        path: The archive.
        folder: Where its content goes, among what is there.
        top: Folder in the archive whose content is wanted; all of it if empty.

    Raises:
        FileExistsError: if a file of another size is in the place of one; nothing is moved.
        OSError: if the disk is full.
        ValueError: if the archive is incomplete or damaged; nothing is moved.
        UnsafeArchiveError: if an entry leads outside of the archive's folder, or is a device.
    """
    work = path.with_name(f'{path.name}.unpacked')
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        try:
            _extract(path, work)
        except tarfile.FilterError as error:
            raise UnsafeArchiveError(f'archive {path} is not unpacked: {error}') from error
        except OSError as error:
            # A damaged file sends its reader to a place before its start.
            if error.errno not in (None, errno.EINVAL):
                raise
            raise ValueError(f'archive {path} is incomplete or damaged: {error}') from error
        except _DAMAGED as error:
            raise ValueError(f'archive {path} is incomplete or damaged: {error}') from error
        _require_mergeable(work / top, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _merge(work / top, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


# What zip and tar files raise, and the formats that compress them. `RuntimeError` is raised for a
# password, `NotImplementedError` for a compression that Python does not know.
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
    gzip.BadGzipFile,
    struct.error,
    KeyError,
    IndexError,
)


def _extract(path: Path, folder: Path) -> None:
    if path.suffix == '.zip':
        with zipfile.ZipFile(path) as archive:  # leaves out `..` and roots of paths
            for entry in _each(archive.infolist(), path):
                archive.extract(entry, folder)
    else:
        with tarfile.open(path) as archive:
            for entry in _each(archive, path):
                archive.extract(entry, folder, filter='data')


def _require_mergeable(new: Path, old: Path) -> None:
    if not old.exists():
        return
    if new.is_dir() and old.is_dir():
        for entry in new.iterdir():
            _require_mergeable(entry, old / entry.name)
    elif new.is_dir() or old.is_dir() or new.stat().st_size != old.stat().st_size:
        raise FileExistsError(
            f'{old} is there and not what the archive has in its place: move it away'
        )


def _merge(new: Path, old: Path) -> None:
    if not old.exists():
        _move(new, old)
    elif new.is_dir():
        for entry in list(new.iterdir()):
            _merge(entry, old / entry.name)


def _move(new: Path, old: Path) -> None:
    try:
        os.replace(new, old)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # A folder above is a link to another disk: the copy there gets its name when it is whole.
        draft = old.with_name(f'.{old.name}{DRAFT_SUFFIX}')
        try:
            if new.is_dir():
                shutil.copytree(new, draft, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(new, draft)
            os.replace(draft, old)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            if draft.is_file():
                draft.unlink()
            raise


def _each(entries: Iterable, path: Path) -> tqdm:
    return tqdm(entries, desc=f'unpack {path.name}', unit=' files', disable=None)
