"""Weight Standardization and Weight Normalization for MMDetection and any PyTorch model.

Importing mmws needs PyTorch and torchvision alone, and imports little more than PyTorch: layers and
tools are imported on first use, and OpenMMLab's packages only by what extends them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import compat

if TYPE_CHECKING:  # for type checkers and editors; at run time __getattr__ imports the same names
    from .backbones import ResNetV2 as ResNetV2
    from .checkpoints import CheckpointMismatchError as CheckpointMismatchError
    from .checkpoints import find_pretrained as find_pretrained
    from .evaluation import CocoMetric as CocoMetric
    from .evaluation import VOCMetric as VOCMetric
    from .functional import WeightFunction as WeightFunction
    from .functional import normalize_weight as normalize_weight
    from .functional import standardize_weight as standardize_weight
    from .hooks import CheckpointRecordHook as CheckpointRecordHook
    from .hooks import TrainingStepHook as TrainingStepHook
    from .hooks import WeightNormInitHook as WeightNormInitHook
    from .layers import BCN as BCN
    from .layers import WNGRU as WNGRU
    from .layers import WNLSTM as WNLSTM
    from .layers import WNRNN as WNRNN
    from .layers import ConvAWS1d as ConvAWS1d
    from .layers import ConvAWS2d as ConvAWS2d
    from .layers import ConvAWS3d as ConvAWS3d
    from .layers import ConvSamePaddingAWS2d as ConvSamePaddingAWS2d
    from .layers import ConvSamePaddingWN2d as ConvSamePaddingWN2d
    from .layers import ConvSamePaddingWS2d as ConvSamePaddingWS2d
    from .layers import ConvTransposeAWS1d as ConvTransposeAWS1d
    from .layers import ConvTransposeAWS2d as ConvTransposeAWS2d
    from .layers import ConvTransposeAWS3d as ConvTransposeAWS3d
    from .layers import ConvTransposeWN1d as ConvTransposeWN1d
    from .layers import ConvTransposeWN2d as ConvTransposeWN2d
    from .layers import ConvTransposeWN3d as ConvTransposeWN3d
    from .layers import ConvTransposeWS1d as ConvTransposeWS1d
    from .layers import ConvTransposeWS2d as ConvTransposeWS2d
    from .layers import ConvTransposeWS3d as ConvTransposeWS3d
    from .layers import ConvWN1d as ConvWN1d
    from .layers import ConvWN2d as ConvWN2d
    from .layers import ConvWN3d as ConvWN3d
    from .layers import ConvWS1d as ConvWS1d
    from .layers import ConvWS2d as ConvWS2d
    from .layers import ConvWS3d as ConvWS3d
    from .layers import DeformConvAWS2d as DeformConvAWS2d
    from .layers import DeformConvPackAWS2d as DeformConvPackAWS2d
    from .layers import DeformConvPackWN2d as DeformConvPackWN2d
    from .layers import DeformConvPackWS2d as DeformConvPackWS2d
    from .layers import DeformConvWN2d as DeformConvWN2d
    from .layers import DeformConvWS2d as DeformConvWS2d
    from .layers import GroupNorm as GroupNorm
    from .layers import LinearAWS as LinearAWS
    from .layers import LinearWN as LinearWN
    from .layers import LinearWS as LinearWS
    from .layers import ModulatedDeformConvPackAWS2d as ModulatedDeformConvPackAWS2d
    from .layers import ModulatedDeformConvPackWN2d as ModulatedDeformConvPackWN2d
    from .layers import ModulatedDeformConvPackWS2d as ModulatedDeformConvPackWS2d
    from .layers import ScaledConvWS2d as ScaledConvWS2d
    from .layers import WeightFunctionMixin as WeightFunctionMixin
    from .layers import WNGRUCell as WNGRUCell
    from .layers import WNLSTMCell as WNLSTMCell
    from .layers import WNRNNCell as WNRNNCell
    from .layers import init_weight_norm as init_weight_norm
    from .surgery import Converted as Converted
    from .surgery import check_conversion as check_conversion
    from .surgery import convert as convert
    from .surgery import fold as fold
    from .training_step import TrainingStep as TrainingStep
    from .training_step import hold_weights as hold_weights

__version__ = '0.1.0'

# Room -> the public names that it defines. A test compares the table with the imports above.
_PUBLIC = {
    'backbones': ('ResNetV2',),
    'checkpoints': ('CheckpointMismatchError', 'find_pretrained'),
    'evaluation': ('CocoMetric', 'VOCMetric'),
    'functional': ('WeightFunction', 'normalize_weight', 'standardize_weight'),
    'hooks': ('CheckpointRecordHook', 'TrainingStepHook', 'WeightNormInitHook'),
    'layers': (
        'BCN',
        'ConvAWS1d',
        'ConvAWS2d',
        'ConvAWS3d',
        'ConvSamePaddingAWS2d',
        'ConvTransposeAWS1d',
        'ConvTransposeAWS2d',
        'ConvTransposeAWS3d',
        'DeformConvAWS2d',
        'DeformConvPackAWS2d',
        'LinearAWS',
        'ModulatedDeformConvPackAWS2d',
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
        'init_weight_norm',
    ),
    'surgery': ('Converted', 'check_conversion', 'convert', 'fold'),
    'training_step': ('TrainingStep', 'hold_weights'),
}
_ROOM_OF = {name: room for room, names in _PUBLIC.items() for name in names}

__all__ = ['__version__', *_ROOM_OF]


def __getattr__(name: str) -> Any:
    if name in _ROOM_OF:
        return getattr(import_module(f'{__name__}.{_ROOM_OF[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOM_OF})


def _guard_loading(model: Any, state_dict: Any) -> None:
    from .checkpoints import guard_loading

    guard_loading(model, state_dict)


# All of these wait for the libraries that they concern to be imported.
compat.redirect_moved_modules()
compat.install_fallback_ops()
compat.extend_mmengine()
compat.check_before_loading(_guard_loading)
