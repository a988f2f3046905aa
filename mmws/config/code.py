"""Write configs as Python source, formatted as ``ruff format`` would."""

from __future__ import annotations

import keyword
import os
import shlex
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmws.files import replacing

LINE_LENGTH = 100


@dataclass(frozen=True)
class Code:
    """An expression: it is written into the config as it is, where a string would be quoted."""

    text: str


def assign(name: str, value: Any) -> str:
    """Return the source of an assignment.

    Args:
        name: The variable.
        value: Nested dicts, lists and tuples of plain values and :class:`Code`.
    """
    return _code(value, f'{name} = ')


def _code(value: Any, prefix: str = '', indent: int = 0) -> str:
    """Return ``prefix`` and the source of ``value`` as ``ruff format`` lays it out."""
    flat = prefix + _flat(value)
    if not isinstance(value, (dict, list, tuple)) or indent + len(flat) < LINE_LENGTH:
        return flat
    opening, entries, closing = _pieces(value)
    inner = indent + 4
    body = ''.join(f'{" " * inner}{_code(v, before, inner)},\n' for before, v in entries)
    return f'{prefix}{opening}\n{body}{" " * indent}{closing}'


def _flat(value: Any) -> str:
    if isinstance(value, Code):
        return value.text
    if not isinstance(value, (dict, list, tuple)):
        # MMEngine replaces templates in the text of a config before it reads it as Python.
        return repr(value).replace('{{', '{\\x7b')
    opening, entries, closing = _pieces(value)
    inside = ', '.join(before + _flat(v) for before, v in entries)
    comma = ',' if isinstance(value, tuple) and len(value) == 1 else ''
    return f'{opening}{inside}{comma}{closing}'


def _pieces(value: dict | list | tuple) -> tuple[str, list[tuple[str, Any]], str]:
    """Return the opening bracket, (text before the value, value) of each entry, the closing one."""
    if isinstance(value, dict):
        if all(isinstance(k, str) and k.isidentifier() and not keyword.iskeyword(k) for k in value):
            return 'dict(', [(f'{k}=', v) for k, v in value.items()], ')'
        return '{', [(f'{k!r}: ', v) for k, v in value.items()], '}'
    opening, closing = '[]' if isinstance(value, list) else '()'
    return opening, [('', v) for v in value], closing


def quoted(value: Any) -> str:
    """Return an argument as a shell reads it, safe to stand in the docstring of a config.

    Quotes, control characters and the braces of MMEngine's templates are written as escapes of
    ``$'...'``, so that no name can end the docstring, or be replaced in it.
    """
    text = str(value)
    if '"""' not in text and '{{' not in text and text.isprintable():
        return shlex.quote(text)
    plain = set(string.ascii_letters + string.digits + ' _-+./:,=@()[]')
    escaped = (
        char if char in plain else ''.join(f'\\x{byte:02x}' for byte in os.fsencode(char))
        for char in text
    )
    return f"$'{''.join(escaped)}'"


def write_config(path: Path, text: str) -> None:
    """Write a config. If MMEngine cannot load it, raise and leave ``path`` as it was."""
    # The draft is in the folder of `path`, where a relative `_base_` is found.
    with replacing(path) as draft:
        draft.write_text(text, encoding='utf-8')
        Config.fromfile(draft)


def is_under(path: str, folder: str) -> bool:
    """Return whether the absolute ``path`` is ``folder`` or a path in it."""
    return os.path.commonpath([path, folder]) == folder


def base_path(base: str | Path, out: Path) -> str:
    """Return the value of ``_base_`` in the config ``out``.

    It is relative if both files are under the current folder, else absolute.
    """
    if '::' in str(base):
        return str(base)
    base, folder = os.path.realpath(base), os.path.realpath(out.parent)
    here = os.path.realpath(os.getcwd())
    if not (is_under(base, here) and is_under(folder, here)):
        return base
    relative = os.path.relpath(base, folder)
    return relative if relative.startswith('..') else f'./{relative}'
