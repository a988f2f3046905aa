"""Images normalized otherwise than those that the weights were trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ..metadata import normalization_of
from .load import Load, Mismatch
from .origins import origins_of


def check_image_normalization(load: Load) -> Iterator[Mismatch]:
    """Find checkpoints that were trained on images normalized otherwise than the model does."""
    for origin in origins_of(load.weights):
        line = differing_normalization(load.model, origin.name, origin.normalization())
        if line is not None:
            yield Mismatch(line)


def differing_normalization(
    model: nn.Module, name: str, trained: Mapping[str, Any] | None
) -> str | None:
    """Return a warning if the model normalizes images otherwise than its checkpoint's training did.

    Args:
        model: A detector; without a ``data_preprocessor`` there is nothing to compare.
        name: Name of the checkpoint.
        trained: ``mean``, ``std`` and ``bgr_to_rgb`` of its training, None if they are unknown.
    """
    current = normalization_of(model)
    if current is None or trained is None or _is_close(current, trained):
        return None
    return (
        f'checkpoint {name} was trained on images normalized by {_settings(trained)}, the model '
        f'normalizes by {_settings(current)}: features are off, and AP is lower. Set '
        'model.data_preprocessor to the former'
    )


def _is_close(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a['bgr_to_rgb'] == b['bgr_to_rgb'] and all(
        len(a[key]) == len(b[key])
        and all(math.isclose(x, y, abs_tol=0.01) for x, y in zip(a[key], b[key]))
        for key in ('mean', 'std')
    )


def _settings(normalization: Mapping[str, Any]) -> str:
    mean, std = ([round(x, 3) for x in normalization[key]] for key in ('mean', 'std'))
    return f'mean={mean}, std={std}, bgr_to_rgb={normalization["bgr_to_rgb"]}'
