"""Write a config for a data set of one's own, from its annotations and a base config."""

from .base import BOX_BASE, MASK_BASE
from .make import NewConfig, new_config
from .schedule import MAX_EPOCHS, MAX_EVALUATIONS, MIN_IMAGES_SEEN, epochs_for

__all__ = [
    'BOX_BASE',
    'MASK_BASE',
    'MAX_EPOCHS',
    'MAX_EVALUATIONS',
    'MIN_IMAGES_SEEN',
    'NewConfig',
    'epochs_for',
    'new_config',
]
