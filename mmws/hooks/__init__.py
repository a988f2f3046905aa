from mmws.compat import moved_names, require_stack

require_stack('mmws.hooks')

from .checkpoint_record import CheckpointRecordHook
from .training_step import TrainingStepHook
from .weight_norm_init import WeightNormInitHook

__all__ = ['CheckpointRecordHook', 'TrainingStepHook', 'WeightNormInitHook']

__getattr__ = moved_names(__name__, {'init_weight_norm': 'mmws.layers'})
