"""Which checkpoint each loaded tensor was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(frozen=True, eq=False)
class Source:
    """The checkpoint that a tensor was read from."""

    name: str
    """Path, URL or name of the hub, as it was asked for."""
    meta: Mapping[str, Any]
    """``meta`` of the checkpoint, empty where it has none."""


# Tensors keep their identity while MMEngine renames keys and takes out the part with a prefix.
_sources: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def source_of(tensor: Tensor) -> tuple[Source, str] | None:
    """Return the checkpoint that a tensor was read from and its key there, None if unknown.

    The prefix ``module.``, which wrappers for parallel training leave, is no part of the key.
    """
    return _sources.get(tensor)


def remember_source(checkpoint: Mapping[str, Any], name: str) -> None:
    """Remember for all weights in a checkpoint, just read, where they come from.

    A checkpoint of another structure has none; whoever needs its weights refuses it.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, Mapping):
        return
    meta = checkpoint.get('meta')
    source = Source(str(name), meta if isinstance(meta, Mapping) else {})
    for key, value in weights.items():
        if isinstance(value, Tensor) and isinstance(key, str):
            _sources[value] = (source, key.removeprefix('module.'))
