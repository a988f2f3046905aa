"""A look at every checkpoint that MMEngine loads, before anything is copied into the model."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .loading import load_safely, load_url_safely
from .on_import import when_imported
from .sources import remember_source

_MODULE = 'mmengine.runner.checkpoint'

_Check = Callable[[nn.Module, Mapping[str, Any]], None]


def forget_config(checkpoint: Mapping[str, Any]) -> None:
    """Remove the config that MMEngine's ``Runner.resume`` would execute as Python.

    The runner reads only ``gpu_ids`` from it, which no config has had since MMEngine 0.1.
    """
    meta = checkpoint.get('meta')
    if isinstance(meta, dict):
        meta.pop('config', None)


# Names of checkpoints -> what they hold, for MMEngine's reader to take instead of the file.
_read_before: dict[str, Mapping[str, Any]] = {}


@contextmanager
def already_read(name: str, contents: Mapping[str, Any]) -> Iterator[None]:
    """Have MMEngine's reader return the contents of a checkpoint without reading it again.

    Args:
        name: Path of the checkpoint, as MMEngine will ask for it.
        contents: From :func:`mmws.compat.read_checkpoint`; tensors on the CPU.
    """
    _read_before[name] = contents
    try:
        yield
    finally:
        del _read_before[name]


def check_before_loading(check: _Check) -> None:
    """Have MMEngine call ``check(module, state_dict)`` before each load of a state dict.

    ``init_cfg=dict(type='Pretrained')``, ``load_from``, ``--resume``, ``init_detector`` and moving
    averages all end in :func:`mmengine.runner.checkpoint.load_state_dict`, which copies weight by
    weight and cannot tell where they come from. It is wrapped, and so is the reader, which knows
    (:func:`source_of`), never unpickles without PyTorch's check and runs no config. MMEngine's
    runner is not imported for it but wrapped once it is. What ``check`` raises stops the load.
    Calling this again does nothing.
    """
    when_imported(_MODULE, functools.partial(_wrap, check=check))


class _TorchThatLoadsSafely:
    """The module :mod:`torch` with another ``load``."""

    def __init__(self, load: Callable[..., Any]) -> None:
        self.load = load

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


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
    def load_checkpoint(
        cls: type, filename: str, map_location: Any = None, logger: Any = None
    ) -> Any:
        checkpoint = _read_before.get(filename)
        if checkpoint is None:
            # MMEngine's runner names no logger, and its reader would print on every rank.
            checkpoint = read(cls, filename, map_location, logger or 'current')
        if isinstance(checkpoint, Mapping):
            forget_config(checkpoint)
            remember_source(checkpoint, filename)
        return checkpoint

    checkpoints.load_state_dict = load_state_dict
    checkpoints.load_url = load_url_safely
    if hasattr(checkpoints, '_safe_torch_load'):
        # Private; onedl-mmengine turns PyTorch's check off there for a file that fails it.
        checkpoints._safe_torch_load = load_safely
    else:
        # mmengine calls `torch.load`, which does not check by default before PyTorch 2.6.
        checkpoints.torch = _TorchThatLoadsSafely(load_safely)
    loader.load_checkpoint = classmethod(load_checkpoint)
    package: Any = sys.modules.get(checkpoints.__package__)
    # Set where MMEngine's runner was imported before mmws.
    if getattr(package, 'load_state_dict', None) is load:
        package.load_state_dict = load_state_dict
