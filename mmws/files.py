"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a draft's path, which takes the place of ``path`` unless an error comes.

    The draft lies in the same folder, which is made, and has the same suffix, by which image and
    video writers choose their format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f'{path.stem}_{os.getpid()}_draft{path.suffix}')
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
