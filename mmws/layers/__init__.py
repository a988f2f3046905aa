from .affine import (
    AffineWeightStandardization,
    ConvAWS1d,
    ConvAWS2d,
    ConvAWS3d,
    ConvSamePaddingAWS2d,
    ConvTransposeAWS1d,
    ConvTransposeAWS2d,
    ConvTransposeAWS3d,
    DeformConvAWS2d,
    DeformConvPackAWS2d,
    LinearAWS,
    ModulatedDeformConvPackAWS2d,
)
from .base import WeightFunctionMixin
from .bcn import BCN
from .deform import (
    DeformConvPackWN2d,
    DeformConvPackWS2d,
    DeformConvWN2d,
    DeformConvWS2d,
    ModulatedDeformConvPackWN2d,
    ModulatedDeformConvPackWS2d,
)
from .fusing import guard_tools
from .norm import GroupNorm, largest_group_count
from .recurrent import WNGRU, WNLSTM, WNRNN, WNGRUCell, WNLSTMCell, WNRNNCell
from .same_padding import ConvSamePaddingWN2d, ConvSamePaddingWS2d
from .weight_norm import (
    ConvTransposeWN1d,
    ConvTransposeWN2d,
    ConvTransposeWN3d,
    ConvWN1d,
    ConvWN2d,
    ConvWN3d,
    LinearWN,
    WeightNormalization,
)
from .weight_norm_init import WeightNormInitReport, init_weight_norm
from .weight_standardization import (
    ConvTransposeWS1d,
    ConvTransposeWS2d,
    ConvTransposeWS3d,
    ConvWS1d,
    ConvWS2d,
    ConvWS3d,
    LinearWS,
    ScaledConvWS2d,
    WeightStandardization,
)

__all__ = [
    'BCN',
    'WNGRU',
    'WNLSTM',
    'WNRNN',
    'AffineWeightStandardization',
    'ConvAWS1d',
    'ConvAWS2d',
    'ConvAWS3d',
    'ConvSamePaddingAWS2d',
    'ConvSamePaddingWN2d',
    'ConvSamePaddingWS2d',
    'ConvTransposeAWS1d',
    'ConvTransposeAWS2d',
    'ConvTransposeAWS3d',
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
    'DeformConvAWS2d',
    'DeformConvPackAWS2d',
    'DeformConvPackWN2d',
    'DeformConvPackWS2d',
    'DeformConvWN2d',
    'DeformConvWS2d',
    'GroupNorm',
    'LinearAWS',
    'LinearWN',
    'LinearWS',
    'ModulatedDeformConvPackAWS2d',
    'ModulatedDeformConvPackWN2d',
    'ModulatedDeformConvPackWS2d',
    'ScaledConvWS2d',
    'WNGRUCell',
    'WNLSTMCell',
    'WNRNNCell',
    'WeightFunctionMixin',
    'WeightNormInitReport',
    'WeightNormalization',
    'WeightStandardization',
    'init_weight_norm',
    'largest_group_count',
]

guard_tools()
