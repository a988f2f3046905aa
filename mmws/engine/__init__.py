from .running import evaluate, load_config, prepare, train
from .weight_norm_init import WeightNormInitHook, init_weight_norm

__all__ = [
    'WeightNormInitHook',
    'evaluate',
    'init_weight_norm',
    'load_config',
    'prepare',
    'train',
]
