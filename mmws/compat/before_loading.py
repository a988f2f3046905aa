"""A look at every checkpoint that MMEngine loads, before anything is copied into the model."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .on_import import when_imported

_MODULE = 'mmengine.runner.checkpoint'


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
    """Remember for all weights in a checkpoint, just read, where they come from."""
    weights = checkpoint.get('state_dict', checkpoint)
    meta = checkpoint.get('meta')
    source = Source(str(name), meta if isinstance(meta, Mapping) else {})
    for key, value in weights.items():
        if isinstance(value, Tensor):
            _sources[value] = (source, key.removeprefix('module.'))


def check_before_loading(check: Callable[[nn.Module, Mapping[str, Any]], None]) -> None:
    """Have MMEngine call ``check(module, state_dict)`` before each load of a state dict.

    ``init_cfg=dict(type='Pretrained')``, ``load_from``, ``--resume``, ``init_detector`` and moving
    averages all end in :func:`mmengine.runner.checkpoint.load_state_dict`, which copies weight by
    weight and cannot tell where they come from. It is wrapped, and so is the reader, which knows
    (:func:`source_of`). MMEngine's runner is not imported for it but wrapped once it is. What
    ``check`` raises stops the load. Calling this again does nothing.
    """
    when_imported(_MODULE, functools.partial(_wrap, check=check))


def _load_safely(file: Any, map_location: Any = None, weights_only: Any = None) -> Any:
    """Load with PyTorch's check on; onedl-mmengine turns it off for a file that fails it."""
    from .loading import allow_checkpoint_classes

    allow_checkpoint_classes()
    return torch.load(file, map_location=map_location, weights_only=True)


def _wrap(module: ModuleType, check: Callable[[nn.Module, Mapping[str, Any]], None]) -> None:
    load, loader = module.load_state_dict, module.CheckpointLoader
    if hasattr(load, '__wrapped__'):
        return
    read = loader.load_checkpoint.__func__

    @functools.wraps(load)
    def load_state_dict(module, state_dict, *args, **kwargs):
        check(module, state_dict)
        return load(module, state_dict, *args, **kwargs)

    @functools.wraps(read)
    def load_checkpoint(cls, filename, *args, **kwargs):
        checkpoint = read(cls, filename, *args, **kwargs)
        if isinstance(checkpoint, Mapping):
            remember_source(checkpoint, filename)
        return checkpoint

    module.load_state_dict = load_state_dict
    if hasattr(module, '_safe_torch_load'):
        module._safe_torch_load = _load_safely
    loader.load_checkpoint = classmethod(load_checkpoint)
    package = sys.modules.get(module.__package__)
    if getattr(package, 'load_state_dict', None) is load:  # imported before mmws
        package.load_state_dict = load_state_dict
