from .base import WeightFunctionMixin
from .norm import GroupNorm, largest_group_count
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
from .weight_standardization import (
    ConvAWS2d,
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
    'ConvAWS2d',
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
    'GroupNorm',
    'LinearWN',
    'LinearWS',
    'ScaledConvWS2d',
    'WeightFunctionMixin',
    'WeightNormalization',
    'WeightStandardization',
    'largest_group_count',
]
