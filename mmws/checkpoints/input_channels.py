"""Weights for images of three channels, in a model for images of another number of channels."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

LOGGER = logging.getLogger(__name__)

_COLOURS = 3


def adapt_input_channels(model: nn.Module, state_dict: MutableMapping[str, Any]) -> None:
    """Fit filters over three channels to a model for images of another number of channels.

    That number C is what the first convolution of the model takes. Fitted are the filters of
    convolutions that take C channels, and not those of transposed ones, whose second dimension is
    their outputs.

    Each of the C channels gets the mean of the filter over its three, times 3 / C: the output for
    an image of equal channels stays the same. The entry in ``state_dict`` is replaced, and the log
    says so. Weights whose other dimensions differ are left as they are.

    Args:
        model: The model that is to load the weights, such as a backbone or a detector.
        state_dict: Weights with the names of the model.
    """
    for name, target in _filters_over_images(model).items():
        weight, channels = state_dict.get(name), target.shape[1]
        if not isinstance(weight, Tensor) or weight.dim() != 4 or weight.shape == target.shape:
            continue
        if weight.shape[1] != _COLOURS:
            continue
        if (weight.shape[0], weight.shape[2:]) == (target.shape[0], target.shape[2:]):
            mean = weight.mean(1, keepdim=True) * (_COLOURS / channels)
            state_dict[name] = mean.repeat(1, channels, 1, 1)
            LOGGER.info('%s: filters over 3 channels are fitted to %d', name, channels)


def _filters_over_images(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights, by name, of convolutions that take as many channels as the first one.

    There are none where the first one takes three, as images of colours have.
    """
    convs = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _ConvNd) and len(module.kernel_size) == 2
    ]
    if not convs or convs[0][1].transposed or convs[0][1].in_channels == _COLOURS:
        return {}
    channels = convs[0][1].in_channels
    return {
        f'{name}.weight' if name else 'weight': conv.weight
        for name, conv in convs
        if conv.in_channels == channels and conv.groups == 1 and not conv.transposed
    }
