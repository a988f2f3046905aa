"""Running a model without leaving a trace in it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmws.surgery.libraries import conv_modules


@contextmanager
def undisturbed(model: nn.Module, quiet: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Run in evaluation mode without gradients; modes, state and random state come back.

    Hooks are a part of what a model computes, so they run; those of ``quiet`` do not. Hooks that
    the model registers while it runs stay.

    Args:
        model: The model.
        quiet: Modules whose hooks do not run.
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    # MMCV can fold a batch normalization into the convolution in evaluation; neither runs then.
    blocks: list[Any] = [m for m in modules if isinstance(m, conv_modules())]
    fused = [(block, block.efficient_conv_bn_eval_forward) for block in blocks]
    states = random.getstate(), np.random.get_state()
    devices = {p.device for p in model.parameters() if p.device.type == 'cuda'}
    hooks = [_Hooks(module) for module in quiet]
    try:
        with kept_state(model), torch.random.fork_rng(list(devices)), torch.no_grad():
            for module in modules:
                module.training = False  # not eval(), which models override
            for module, _ in fused:
                module.efficient_conv_bn_eval_forward = None
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for set_aside in hooks:
            set_aside.put_back()
        for module, mode in zip(modules, modes):
            module.training = mode
        for module, function in fused:
            module.efficient_conv_bn_eval_forward = function


@contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Let buffers and attributes of all modules of ``model`` come back.

    Models remember what they are given, such as the size of an image and what was computed for it.
    Buffers and attributes come back together, since each may refer to the other. What is changed
    inside of an attribute, such as an entry of a list, stays changed.
    """
    modules = list(model.modules())
    attributes = [(module, dict(vars(module))) for module in modules]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in modules
        if isinstance(module._buffers, dict)  # those of TorchScript are out of reach
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, before in attributes:
            for name in vars(module).keys() - before.keys():
                del vars(module)[name]
            vars(module).update(before)
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                _restore(module, name, buffer, value)


def _restore(module: nn.Module, name: str, buffer: Tensor, value: Tensor) -> None:
    if not buffer.is_inference():
        if buffer.shape != value.shape:
            buffer.resize_(value.shape)
        buffer.copy_(value)
    module._buffers[name] = buffer


class _Hooks:
    """The hooks of a module, set aside."""

    def __init__(self, module: nn.Module) -> None:
        self._tables: list[Any] = [module._forward_pre_hooks, module._forward_hooks]
        self._entries = [dict(table) for table in self._tables]
        for table in self._tables:
            table.clear()

    def put_back(self) -> None:
        """Put the hooks back, before those that were registered since.

        The tables stay the same objects, to which the handles of their owners refer.
        """
        for table, entries in zip(self._tables, self._entries):
            later = dict(table)
            table.clear()
            table.update(entries)
            table.update(later)
