"""The edges of the outside world: which OpenMMLab stack is installed, its compiled ops, its files.

Imported before everything else in mmws, and imports nothing of it.
"""

from .stack import require_stack

require_stack()

from .config import read_config, register_config_package  # noqa: E402  (needs the stack)
from .loading import allow_checkpoint_classes, read_checkpoint  # noqa: E402
from .mmcv_ext import install_fallback_ops  # noqa: E402

__all__ = [
    'allow_checkpoint_classes',
    'install_fallback_ops',
    'read_checkpoint',
    'read_config',
    'register_config_package',
    'require_stack',
]
