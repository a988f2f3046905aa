"""Configs of MMEngine: read them, write them as source text, walk through them, find typos."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmws.compat import register_config_package, require_stack

if TYPE_CHECKING:
    from .read import load_config, read_config
    from .typos import warn_about_typos

__all__ = ['load_config', 'read_config', 'register_config_package', 'warn_about_typos']

_MODULES = {'load_config': 'read', 'read_config': 'read', 'warn_about_typos': 'typos'}


def __getattr__(name: str) -> Any:
    # Reading files needs MMEngine; walking through configs (mmws.config.tree) does not.
    if name in _MODULES:
        require_stack('mmws.config')
        return getattr(import_module(f'{__name__}.{_MODULES[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
