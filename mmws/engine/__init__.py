from .running import CheckpointMismatchError, evaluate, load_config, prepare, train
from .weight_norm_init import WeightNormInitHook, init_weight_norm

__all__ = [
    'CheckpointMismatchError',
    'WeightNormInitHook',
    'evaluate',
    'init_weight_norm',
    'load_config',
    'prepare',
    'train',
]
