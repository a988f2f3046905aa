"""Weight Standardization with Group Normalization for MMDetection.

Importing mmws costs no more than importing MMEngine: layers and tools are imported on first use.
"""

from importlib import import_module

from . import compat
from .config.read import register_config_package

compat.redirect_moved_modules()
compat.install_fallback_ops()
compat.allow_checkpoint_classes()
register_config_package()


def _guard_loading(model, state_dict):
    from .checkpoints import guard_loading

    guard_loading(model, state_dict)


compat.check_before_loading(_guard_loading)

__version__ = '0.1.0'

# Public name -> module that defines it, imported when the name is first asked for.
_PUBLIC = {
    **dict.fromkeys(
        (
            'BCN',
            'ConvAWS2d',
            'ConvSamePaddingWN2d',
            'ConvSamePaddingWS2d',
            'ConvTransposeWN1d',
            'ConvTransposeWN2d',
            'ConvTransposeWN3d',
            'ConvTransposeWS1d',
            'ConvTransposeWS2d',
            'ConvTransposeWS3d',
            'ConvWN1d',
            'ConvWN2d',
            'ConvWN3d',
            'ConvWS1d',
            'ConvWS2d',
            'ConvWS3d',
            'DeformConvPackWN2d',
            'DeformConvPackWS2d',
            'DeformConvWN2d',
            'DeformConvWS2d',
            'GroupNorm',
            'LinearWN',
            'LinearWS',
            'ModulatedDeformConvPackWN2d',
            'ModulatedDeformConvPackWS2d',
            'ScaledConvWS2d',
            'WeightFunctionMixin',
            'WNGRU',
            'WNGRUCell',
            'WNLSTM',
            'WNLSTMCell',
            'WNRNN',
            'WNRNNCell',
        ),
        'mmws.layers',
    ),
    'ResNetV2': 'mmws.backbones',
    **dict.fromkeys(('CheckpointMismatchError', 'find_pretrained'), 'mmws.checkpoints'),
    **dict.fromkeys(('CocoMetric', 'VOCMetric'), 'mmws.evaluation'),
    **dict.fromkeys(
        ('CheckpointRecordHook', 'WeightNormInitHook', 'init_weight_norm'), 'mmws.hooks'
    ),
    **dict.fromkeys(('Converted', 'convert', 'fold'), 'mmws.surgery'),
    **dict.fromkeys(
        ('WeightFunction', 'normalize_weight', 'standardize_weight'), 'mmws.functional'
    ),
}

__all__ = ['__version__', *_PUBLIC]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
    return sorted({*globals(), *_PUBLIC})
