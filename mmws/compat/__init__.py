"""The edges of the outside world: which OpenMMLab stack is installed, its compiled ops, its files.

Imported before everything else in mmws. It imports nothing of the rest of mmws, and MMEngine, MMCV
and MMDetection only where a program already uses them.
"""

from .before_loading import already_read, check_before_loading
from .loading import CheckpointError, allow_checkpoint_classes, read_checkpoint
from .mmcv_ext import install_fallback_ops, ops_are_compiled
from .mmengine_hooks import extend_mmengine, register_config_package
from .moved import moved_names, redirect_moved_modules
from .on_import import when_imported
from .sources import Source, remember_source, source_of
from .stack import MissingStackError, is_installed, require_stack

__all__ = [
    'CheckpointError',
    'MissingStackError',
    'Source',
    'allow_checkpoint_classes',
    'already_read',
    'check_before_loading',
    'extend_mmengine',
    'install_fallback_ops',
    'is_installed',
    'moved_names',
    'ops_are_compiled',
    'read_checkpoint',
    'redirect_moved_modules',
    'register_config_package',
    'remember_source',
    'require_stack',
    'source_of',
    'when_imported',
]

__getattr__ = moved_names(__name__, {'read_config': 'mmws.config'})
