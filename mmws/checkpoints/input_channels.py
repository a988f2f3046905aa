"""Weights for images of three channels, in a model for images of another number of channels."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from torch import Tensor, nn

LOGGER = logging.getLogger(__name__)

_COLOURS = 3


def adapt_input_channels(model: nn.Module, state_dict: MutableMapping[str, Any]) -> None:
    """Fit filters over three channels to a first convolution that has another number of them.

    Each of the C channels gets the mean of the filter over its three, times 3 / C: the output for
    an image of equal channels stays the same. The entry in ``state_dict`` is replaced, and the log
    says so. Weights whose other dimensions differ are left as they are.

    Args:
        model: The model that is to load the weights, such as a backbone or a detector.
        state_dict: Weights with the names of the model.
    """
    own = model.state_dict()
    for name, weight in state_dict.items():
        target = own.get(name)
        if not isinstance(weight, Tensor) or target is None or weight.shape == target.shape:
            continue
        if weight.dim() != 4 or target.dim() != 4 or weight.shape[1] != _COLOURS:
            continue
        channels = target.shape[1]
        if (weight.shape[0], weight.shape[2:]) == (target.shape[0], target.shape[2:]):
            mean = weight.mean(1, keepdim=True) * (_COLOURS / channels)
            state_dict[name] = mean.repeat(1, channels, 1, 1)
            LOGGER.info('%s: filters over 3 channels are fitted to %d', name, channels)
