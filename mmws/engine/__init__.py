"""Train, test and launch detectors as the command lines under ``tools/`` do."""

from mmws.compat import moved_names, require_stack

require_stack('mmws.engine')

from .run import evaluate, prepare, train

__all__ = [
    'evaluate',
    'prepare',
    'train',
]

__getattr__ = moved_names(
    __name__,
    {
        'load_config': 'mmws.config',
        **dict.fromkeys(('CheckpointRecordHook', 'WeightNormInitHook'), 'mmws.hooks'),
        'init_weight_norm': 'mmws.layers',
    },
)
