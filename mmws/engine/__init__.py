from .checkpoint_record import CheckpointRecordHook
from .running import evaluate, load_config, prepare, train
from .weight_norm_init import WeightNormInitHook, init_weight_norm

__all__ = [
    'CheckpointRecordHook',
    'WeightNormInitHook',
    'evaluate',
    'init_weight_norm',
    'load_config',
    'prepare',
    'train',
]
