"""Models that cannot be converted as they are, told in one line."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .libraries import loaded_classes


def refuse_wrapped(model: nn.Module) -> None:
    """Raise where a conversion would do nothing, or leave somebody with the old parameters.

    Raises:
        TypeError: if ``model`` is a TorchScript module, is inside of ``torch.compile``, or is or
            contains a wrapper for distributed training.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            'the model is a TorchScript module (torch.jit), whose layers cannot be changed: '
            'convert the model before tracing or scripting it'
        )
    if hasattr(model, '_orig_mod'):
        raise TypeError(
            'the model is inside of torch.compile: convert model._orig_mod and compile it again'
        )
    sharded = (
        *loaded_classes('torch.distributed.fsdp', 'FullyShardedDataParallel', 'FSDPModule'),
        *loaded_classes('torch.distributed._composable.fsdp', 'FSDPModule'),
    )
    for name, module in model.named_modules():
        if isinstance(module, (DistributedDataParallel, *sharded)):
            inside = '.'.join(part for part in ('model', name, 'module') if part)
            raise TypeError(
                f'the model is inside of {type(module).__name__}, which goes on with the '
                f'parameters it was made with: convert {inside}, and wrap it afterwards'
            )


def notes_on_fixed_parts(model: nn.Module) -> Iterator[str]:
    """Yield a sentence on parts of the model whose layers cannot be changed."""
    scripted = [n for n, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    outermost = [n for n in scripted if n.rpartition('.')[0] not in scripted]
    if outermost:
        yield f'TorchScript modules stay as they are: {_few(outermost)}'
    quantized = [n for n, m in model.named_modules() if 'quantized' in type(m).__module__]
    if quantized:
        yield f'quantized modules stay as they are: {_few(quantized)}'


def _few(names: list[str], count: int = 3) -> str:
    return ', '.join([*names[:count], *(['...'] if len(names) > count else [])])
