"""The edges of the outside world: which OpenMMLab stack is installed, its compiled ops, its files.

Imported before everything else in mmws, and imports nothing of it.
"""

from .stack import require_stack

require_stack()

from .before_loading import Source, check_before_loading, remember_source, source_of  # noqa: E402
from .loading import allow_checkpoint_classes, read_checkpoint  # noqa: E402
from .mmcv_ext import install_fallback_ops  # noqa: E402
from .moved import moved_names, redirect_moved_modules  # noqa: E402

__all__ = [
    'Source',
    'allow_checkpoint_classes',
    'check_before_loading',
    'install_fallback_ops',
    'moved_names',
    'read_checkpoint',
    'redirect_moved_modules',
    'remember_source',
    'require_stack',
    'source_of',
]

__getattr__ = moved_names(
    __name__, dict.fromkeys(('read_config', 'register_config_package'), 'mmws.config')
)
