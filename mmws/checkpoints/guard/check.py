"""The checks before a load, in order, and what becomes of the mismatches that they find."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from mmws.layers import GroupNorm, WeightFunctionMixin

from ..input_channels import adapt_input_channels
from ..metadata import META_KEY
from .image_normalization import check_image_normalization, differing_normalization
from .keys import Keys, check_keys, check_overlap
from .load import Load, Mismatch
from .model import state_dict_of, unwrap
from .norms import check_norms, check_statistics
from .origins import origins_of
from .weight_functions import check_weight_functions

LOGGER = logging.getLogger(__name__)

GUARD_VARIABLE = 'MMWS_CHECKPOINT_GUARD'
"""Environment variable; the value ``warn`` turns every error into a warning."""


class CheckpointMismatchError(ValueError):
    """Weights do not fit the layers that were to load them; nothing was loaded."""


# For every model or part that loaded weights: names of the checkpoints, and their normalization.
_loaded: MutableMapping[nn.Module, list[tuple[str, dict[str, Any] | None]]] = WeakKeyDictionary()


def guard_loading(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Run :func:`check_weights` and log its warnings, for loads that concern mmws.

    A load concerns mmws if the model has layers of mmws, or if the checkpoint is known to mmws by
    its metadata or its name. All other loads pass unchecked. Filters over three channels are fitted
    to a model of another number (:func:`adapt_input_channels`).

    Raises:
        CheckpointMismatchError: if model and weights do not fit.
    """
    model = unwrap(model)
    if isinstance(state_dict, MutableMapping):
        adapt_input_channels(model, state_dict)
    has_own_layers = any(isinstance(m, (WeightFunctionMixin, GroupNorm)) for m in model.modules())
    origins = list(origins_of(state_dict))
    if has_own_layers or any(origin.known for origin in origins):
        _warn(check_weights(model, state_dict))
        _loaded[model] = [(origin.name, origin.normalization()) for origin in origins]


def check_normalization(model: nn.Module) -> None:
    """Log a warning if parts of a model loaded weights trained on otherwise normalized images.

    A part such as the backbone does not know, while it loads, how the model normalizes its input.

    Args:
        model: A detector; its ``data_preprocessor`` is compared.
    """
    model = unwrap(model)
    parts = [part for part in model.modules() if part is not model and part in _loaded]
    lines = {
        differing_normalization(model, name, trained)
        for part in parts
        for name, trained in _loaded[part]
    }
    _warn([line for line in lines if line is not None])


def _warn(lines: list[str]) -> None:
    for line in lines:
        LOGGER.warning('%s', line)


def check_weights(
    model: nn.Module, state_dict: Mapping[str, Any], *, strict: bool = False
) -> list[str]:
    """Check a state dict against a model, and copy nothing.

    Args:
        model: The model that is to load the weights, with or without wrappers for parallel
            training.
        state_dict: As read from a checkpoint by MMEngine or by
            :func:`mmws.checkpoints.Checkpoint.read`, keys renamed to those of the model or left
            out as wanted.
        strict: Weights must be the model's own, as on resuming: none missing, unexpected or of
            another shape.

    Returns:
        Warnings, each in one line that names the checkpoint, the mismatch, its effect and the fix.

    Raises:
        CheckpointMismatchError: if they do not fit, with such a line.
    """
    found = list(find_mismatches(unwrap(model), state_dict, strict=strict))
    errors = [mismatch.text for mismatch in found if mismatch.is_error]
    warnings = [mismatch.text for mismatch in found if not mismatch.is_error]
    if os.environ.get(GUARD_VARIABLE) == 'warn':
        return [*errors, *warnings]
    if errors:
        raise CheckpointMismatchError(
            f'{errors[0]}. Nothing was loaded. '
            f'(To load it all the same, set {GUARD_VARIABLE}=warn.)'
        )
    return warnings


def find_mismatches(
    model: nn.Module, state_dict: Mapping[str, Any], *, strict: bool = False
) -> Iterator[Mismatch]:
    """Yield what is wrong with a load, the most specific cause first.

    :func:`check_weights`, which has the same arguments, raises the first error.
    """
    weights = {k: v for k, v in state_dict.items() if isinstance(v, Tensor)}
    load = Load(model, weights)
    for origin in origins_of(weights):
        if origin.illegible is not None:
            yield Mismatch(
                f'checkpoint {origin.name} has a meta[{META_KEY!r}] that cannot be read '
                f'({origin.illegible}): what it was trained with is not known. Another version of '
                'mmws, or another program, wrote it'
            )
    keys = Keys(model, state_dict_of(model), weights)
    if not keys.common:
        yield from check_overlap(load, keys)
        return
    yield from check_statistics(load)
    yield from check_keys(load, keys, strict)
    yield from check_weight_functions(load)
    yield from check_norms(load)
    yield from check_image_normalization(load)
