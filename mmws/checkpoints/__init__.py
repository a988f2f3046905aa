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
    'CheckpointMismatchError',
    'Published',
    'check_normalization',
    'check_weights',
    'find_pretrained',
    'guard_loading',
    'lookup',
    'record',
]
