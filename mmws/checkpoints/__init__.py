from mmws.compat import moved_names

from .checkpoint import Checkpoint, last_checkpoint
from .foreign import SOURCES, Backbone, convert_checkpoint, convert_weights
from .guard import (
    CheckpointMismatchError,
    check_normalization,
    check_weights,
    guard_loading,
)
from .intact import (
    NonFiniteError,
    check_finite,
    check_resumable,
    check_undamaged,
    find_intact,
    read_intact,
)
from .metadata import META_KEY, describe_weights
from .published import BACKBONES, DETECTORS, Published, find_pretrained, lookup

__all__ = [
    'BACKBONES',
    'DETECTORS',
    'META_KEY',
    'SOURCES',
    'Backbone',
    'Checkpoint',
    'CheckpointMismatchError',
    'NonFiniteError',
    'Published',
    'check_finite',
    'check_normalization',
    'check_resumable',
    'check_undamaged',
    'check_weights',
    'convert_checkpoint',
    'convert_weights',
    'describe_weights',
    'find_intact',
    'find_pretrained',
    'guard_loading',
    'last_checkpoint',
    'lookup',
    'read_intact',
]

__getattr__ = moved_names(
    __name__,
    {'KEY': f'{__name__}:META_KEY', 'record': f'{__name__}:describe_weights'},
)
