from .checkpoint import Checkpoint, last_checkpoint
from .foreign import SOURCES, Backbone, convert_checkpoint, convert_weights
from .guard import (
    CheckpointMismatchError,
    check_normalization,
    check_weights,
    guard_loading,
)
from .published import BACKBONES, DETECTORS, Published, find_pretrained, lookup
from .record import KEY, record

__all__ = [
    'BACKBONES',
    'DETECTORS',
    'KEY',
    'SOURCES',
    'Backbone',
    'Checkpoint',
    'CheckpointMismatchError',
    'Published',
    'check_normalization',
    'check_weights',
    'convert_checkpoint',
    'convert_weights',
    'find_pretrained',
    'guard_loading',
    'last_checkpoint',
    'lookup',
    'record',
]
