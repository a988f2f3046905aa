"""Train, test and launch detectors as the command lines under ``tools/`` do."""

from mmws.compat import moved_names

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
        **dict.fromkeys(
            ('CheckpointRecordHook', 'WeightNormInitHook', 'init_weight_norm'), 'mmws.hooks'
        ),
    },
)
