"""Configs of MMEngine: read them, write them as source text, walk through them, find typos."""

from .read import load_config, read_config, register_config_package
from .typos import warn_about_typos

__all__ = ['load_config', 'read_config', 'register_config_package', 'warn_about_typos']
