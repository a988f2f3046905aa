"""Configs of MMEngine: read them, write them as source text, walk through them, find typos."""

from mmws.compat import register_config_package, require_stack

require_stack('mmws.config')

from .read import load_config, read_config
from .typos import warn_about_typos

__all__ = ['load_config', 'read_config', 'register_config_package', 'warn_about_typos']
