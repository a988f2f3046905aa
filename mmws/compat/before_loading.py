"""A look at every checkpoint that MMEngine loads, before anything is copied into the model."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .loading import allow_checkpoint_classes
from .on_import import when_imported
from .sources import remember_source

_MODULE = 'mmengine.runner.checkpoint'

_Check = Callable[[nn.Module, Mapping[str, Any]], None]


def check_before_loading(check: _Check) -> None:
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
    allow_checkpoint_classes()
    return torch.load(file, map_location=map_location, weights_only=True)


def _wrap(checkpoints: Any, check: _Check) -> None:
    """Wrap the functions of the module ``mmengine.runner.checkpoint`` that read and load."""
    load, loader = checkpoints.load_state_dict, checkpoints.CheckpointLoader
    if hasattr(load, '__wrapped__'):
        return
    read = loader.load_checkpoint.__func__

    @functools.wraps(load)
    def load_state_dict(
        module: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        check(module, state_dict)
        return load(module, state_dict, *args, **kwargs)

    @functools.wraps(read)
    def load_checkpoint(cls: type, filename: str, *args: Any, **kwargs: Any) -> Any:
        checkpoint = read(cls, filename, *args, **kwargs)
        if isinstance(checkpoint, Mapping):
            remember_source(checkpoint, filename)
        return checkpoint

    checkpoints.load_state_dict = load_state_dict
    if hasattr(checkpoints, '_safe_torch_load'):  # private, of onedl-mmengine alone
        checkpoints._safe_torch_load = _load_safely
    loader.load_checkpoint = classmethod(load_checkpoint)
    package: Any = sys.modules.get(checkpoints.__package__)
    # Set where MMEngine's runner was imported before mmws.
    if getattr(package, 'load_state_dict', None) is load:
        package.load_state_dict = load_state_dict
