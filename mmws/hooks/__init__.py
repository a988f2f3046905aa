from mmws.compat import moved_names, require_stack

require_stack('mmws.hooks')

from .checkpoint_record import CheckpointRecordHook
from .data_workers import DataWorkersHook
from .divergence import DivergenceError, DivergenceHook
from .durable_checkpoint import DurableCheckpointHook
from .exact_resume import ExactResumeHook
from .stop import RESUMABLE, StopHook
from .training_step import TrainingStepHook
from .validation_loss import ValidationLossHook
from .weight_norm_init import WeightNormInitHook

__all__ = [
    'RESUMABLE',
    'CheckpointRecordHook',
    'DataWorkersHook',
    'DivergenceError',
    'DivergenceHook',
    'DurableCheckpointHook',
    'ExactResumeHook',
    'StopHook',
    'TrainingStepHook',
    'ValidationLossHook',
    'WeightNormInitHook',
]

__getattr__ = moved_names(__name__, {'init_weight_norm': 'mmws.layers'})
