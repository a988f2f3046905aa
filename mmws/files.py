"""Files that are written completely or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DRAFT_SUFFIX = '.unfinished'


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a draft that replaces ``path`` when the block ends without an error.

    The draft is in the folder of ``path``, which is created, so that replacing is one step of the
    file system. It has the suffix of ``path``, by which image and video writers choose a format.
    After an error the draft is removed and ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f'{path.stem}_{os.getpid()}_draft{path.suffix}')
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, so that it survives a power failure once this returns.

    Args:
        path: Its folder is made.
        content: What the file holds afterwards.

    Raises:
        OSError: if the disk is full or the folder cannot be written; what was at ``path`` stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f'.{path.name}.{os.getpid()}{DRAFT_SUFFIX}')
    try:
        with draft.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def remove_drafts(folder: Path) -> None:
    """Remove what processes that were killed while they called :func:`write_durably` left."""
    for draft in folder.glob(f'.*{DRAFT_SUFFIX}'):
        draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder to the disk, where the system can do that."""
    # Windows cannot open a folder, and some network file systems cannot sync one.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
