"""Find files in folders, of which some may be links to others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def files_in(folder: str | Path, *suffixes: str) -> Iterator[Path]:
    """Yield the files in a folder at any depth, also in folders that are links, in order.

    Args:
        folder: Where to look.
        *suffixes: Of the files wanted, in lower case; all files without them.
    """
    entered = {os.path.realpath(folder)}
    found = []
    for where, inner, names in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(inner):
            real = os.path.realpath(os.path.join(where, name))
            if real not in entered:  # a link to a folder above would be entered for ever
                entered.add(real)
                kept.append(name)
        inner[:] = kept
        found += [
            Path(where, name)
            for name in names
            if not suffixes or os.path.splitext(name)[1].lower() in suffixes
        ]
    yield from sorted(found)
