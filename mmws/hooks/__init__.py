from .checkpoint_record import CheckpointRecordHook
from .weight_norm_init import WeightNormInitHook, init_weight_norm

__all__ = ['CheckpointRecordHook', 'WeightNormInitHook', 'init_weight_norm']
