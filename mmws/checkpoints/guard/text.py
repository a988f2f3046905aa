"""How messages list many names in a few words."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def some(names: Iterable[str]) -> str:
    """Return the first three names, and dots if there are more."""
    names = list(names)
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')


def count(names: Collection[str], what: str) -> str:
    """Return for example ``2 layers, as conv1, conv2``."""
    return f'{len(names)} {what}{"" if len(names) == 1 else "s"}, as {some(names)}'
