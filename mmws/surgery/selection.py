"""Layers chosen by name, by pattern or by a function: ``skip=`` and ``only=``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

# A name, a pattern of the shell, a regular expression or a function of name and module.
Selector = str | re.Pattern[str] | Callable[[str, nn.Module], bool]


def selected_layers(
    model: nn.Module, what: str, selectors: Selector | Iterable[Selector]
) -> set[nn.Module]:
    """Return the modules of ``model`` that one of the selectors chooses.

    Args:
        model: The model.
        what: Name of the argument, for errors.
        selectors: One or several of: the name of a module, which stands for all that is in it;
            a pattern such as ``'backbone.layer?.*.conv1'``; a compiled regular expression, to be
            found anywhere in a name; a function of name and module that returns whether it
            chooses the module.

    Raises:
        ValueError: if a name, a pattern or an expression chooses nothing.
        TypeError: if a selector is none of these.
    """
    if isinstance(selectors, (str, re.Pattern)) or callable(selectors):
        selectors = [selectors]
    modules = dict(model.named_modules(remove_duplicate=False))
    chosen: set[nn.Module] = set()
    for selector in selectors:
        found = [module for name, module in modules.items() if _chooses(selector, name, module)]
        if not found and not callable(selector):
            shown = selector.pattern if isinstance(selector, re.Pattern) else selector
            raise ValueError(f'{what}={shown!r} names no module of the model')
        for module in found:
            chosen.update(module.modules() if not callable(selector) else [module])
    return chosen


def _chooses(selector: Any, name: str, module: nn.Module) -> bool:
    if isinstance(selector, str):
        return name == selector or fnmatchcase(name, selector)
    if isinstance(selector, re.Pattern):
        return selector.search(name) is not None
    if callable(selector):
        return bool(selector(name, module))
    raise TypeError(f'{selector!r} chooses no layers: give a name, a pattern or a function')
