"""A mark in the annotation files that mmws writes, so that it tells them from the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_KEY, _VALUE = 'mmws', 'written with a config'
# Files that were imported before there was the mark have the second text.
_MARKS = (f'"{_KEY}": "{_VALUE}"'.encode(), b'"Imported by mmws"')
_HEAD = 400  # bytes at the beginning of a file, which hold the mark


def marked(data: dict[str, Any]) -> dict[str, Any]:
    """Return a COCO data set with the mark at the beginning of its ``info``."""
    info = data.get('info')
    kept = info if isinstance(info, dict) else {} if info is None else {'description': info}
    rest = {key: value for key, value in data.items() if key != 'info'}
    return {'info': {_KEY: _VALUE, **kept}, **rest}


def is_marked(path: str | Path) -> bool:
    """Return whether mmws wrote an annotation file with a config."""
    try:
        with open(path, 'rb') as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return any(mark in head for mark in _MARKS)
