from typing import Any

from torch import Tensor, nn

from mmws.functional import standardize_weight
from mmws.registry import MODELS


class WeightStandardization:
    """Mixin over PyTorch's convolutions: convolve with the standardized filters.

    Parameters, buffers and state-dict keys are those of the plain layer.

    Args:
        *args: As for the plain layer.
        eps: Added to the standard deviation of a filter.
        **kwargs: As for the plain layer.
    """

    def __init__(self, *args: Any, eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: 'Tensor | None') -> Tensor:
        return super()._conv_forward(input, standardize_weight(weight, self.eps), bias)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, eps={self.eps}'


@MODELS.register_module('ConvWS')
class ConvWS2d(WeightStandardization, nn.Conv2d):
    """2d convolution with Weight Standardization, ``type='mmws.ConvWS'`` in a config."""
