"""Files that are written completely or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
