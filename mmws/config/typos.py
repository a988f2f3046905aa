"""Find misspelt keys in overrides of a config, which MMEngine adds as new settings."""

from __future__ import annotations

import difflib
import logging
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from .tree import dotted, walk


def warn_about_typos(cfg: Config, options: dict) -> list[str]:
    """Log and return a warning for each key that looks like a misspelling of an existing one.

    A key that does not exist is suspicious if it resembles a key of the same dict, or if a key of
    its name exists in a dict above or below (``optim_wrapper.lr`` for
    ``optim_wrapper.optimizer.lr``). Other new keys are added on purpose, without a warning.

    Args:
        cfg: The config before the options are merged into it.
        options: Dotted keys and their values; a number in a key is an index of a list.

    Returns:
        One line for each suspicious key, in the order of ``options``.
    """
    tree = cfg.to_dict()
    warnings = []
    for key in options:
        meant = _what_was_meant(tree, key.split('.'))
        if meant:
            warnings.append(
                f'cfg_options: the config has no key {key}; did you mean {meant}? '
                '(it is set nevertheless)'
            )
            print_log(warnings[-1], logger='current', level=logging.WARNING)
    return warnings


def _what_was_meant(tree: dict, parts: list[str]) -> str | None:
    """Return the existing key that ``parts`` probably stand for, ``None`` if they are right."""
    node: Any = tree
    above = []
    for depth, part in enumerate(parts):
        children = _children(node)
        if part in children:
            above.append(children)
            node = children[part]
            continue
        before, after = parts[:depth], parts[depth + 1 :]
        beside = _closest(part, children)
        if beside:
            return '.'.join([*before, beside, *after])
        below = [path for path, _ in walk(node) if len(path) > 1 and str(path[-1]) == part]
        if below and not part.isdigit():
            return dotted((*before, *min(below, key=len), *after))
        for level in range(depth - 1, -1, -1):
            if part in above[level]:
                return '.'.join([*parts[:level], part, *after])
        return None
    return None


def _children(node: Any) -> dict[str, Any]:
    if isinstance(node, dict):
        return {str(key): value for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return {str(i): value for i, value in enumerate(node)}
    return {}


def _closest(part: str, names: dict[str, Any]) -> str | None:
    # Indices of lists are no names that could be misspelt.
    plain = {_plain(name): name for name in names if not name.isdigit()}
    # A cutoff of 0.8 finds 'lr' for 'lrr', and does not find 'max_epochs' for 'max_iters'.
    found = difflib.get_close_matches(_plain(part), plain, n=1, cutoff=0.8)
    return plain[found[0]] if found else None


def _plain(name: str) -> str:
    return name.lower().replace('_', '').replace('-', '')
