"""Read an annotation file entry by entry, so that a large one does not fill the memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LISTS = ('images', 'annotations', 'categories')

_SPACE = re.compile(r'[ \t\n\r]*')
_BYTE_ORDER_MARK = '\ufeff'


def read_text(path: str | Path) -> tuple[str, bool]:
    """Return the text of a JSON file, and whether it is UTF-8 without a byte order mark.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no text.
    """
    content = Path(path).read_bytes()
    encoding = json.detect_encoding(content[:4])
    text = content.decode(encoding)
    return text.removeprefix(_BYTE_ORDER_MARK), encoding == 'utf-8'


def entries_of(text: str) -> Iterator[tuple[str, Any]]:
    """Yield the entries of the lists of a COCO file in their order, each with its list's name.

    A list yields its name and ``None`` first, so that an empty one is seen. What is not in
    :data:`LISTS` is skipped.

    Raises:
        ValueError: if the text is no JSON.
        TypeError: if it is no object.
        RecursionError: if it is nested too deep.
    """
    decode = json.JSONDecoder().raw_decode
    at = _after_space(text, 0)
    if text[at : at + 1] != '{':
        decode(text, at)  # which raises if the text is no JSON at all
        raise TypeError('not an object')
    at = _after_space(text, at + 1)
    while text[at : at + 1] != '}':
        key, at = decode(text, at)
        if not isinstance(key, str):
            raise ValueError(f'a key of the object is {key!r}, which is no text')
        at = _expect(text, at, ':')
        if key in LISTS and text[at : at + 1] == '[':
            yield key, None
            at = _after_space(text, at + 1)
            while text[at : at + 1] != ']':
                entry, at = decode(text, at)
                yield key, entry
                at = _next(text, at, ']')
            at += 1
        else:
            _, at = decode(text, at)
        at = _next(text, at, '}')
    if _after_space(text, at + 1) != len(text):
        raise ValueError('text follows the end of the object')


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, mark: str) -> int:
    at = _after_space(text, at)
    if text[at : at + 1] != mark:
        raise ValueError(f'{mark!r} is missing at character {at}: the file is incomplete')
    return _after_space(text, at + 1)


def _next(text: str, at: int, end: str) -> int:
    """Return where the next entry begins, or the closing bracket ``end`` stands."""
    at = _after_space(text, at)
    return at if text[at : at + 1] == end else _expect(text, at, ',')
