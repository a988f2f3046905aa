"""A model's modules and keys by the names that checkpoints use."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mmws.compat import is_installed


def unwrap(model: nn.Module) -> nn.Module:
    """Return a model without wrappers for parallel training and test-time augmentation."""
    wrapped: Any = model
    while _is_wrapper(wrapped):
        wrapped = wrapped.module
    return wrapped


def _is_wrapper(model: nn.Module) -> bool:
    if isinstance(model, (DataParallel, DistributedDataParallel)):
        return True
    # A model can only be in a wrapper of MMEngine if MMEngine's models have been imported.
    mmengine = sys.modules.get('mmengine.model')
    return mmengine is not None and (
        mmengine.is_model_wrapper(model) or isinstance(model, mmengine.BaseTTAModel)
    )


def state_dict_of(model: nn.Module) -> Mapping[str, Any]:
    """Return the state dict of a model by the names that checkpoints have, without wrappers."""
    if not is_installed('mmengine'):
        return model.state_dict(keep_vars=True)
    from mmengine.runner.checkpoint import get_state_dict

    return get_state_dict(model, keep_vars=True)


def named_layers(module: nn.Module, prefix: str = '') -> Iterator[tuple[str, nn.Module]]:
    """Yield modules by the names that MMEngine gives their weights, which skip wrappers.

    A shared module is yielded under each of its names.
    """
    module = unwrap(module)
    yield prefix[:-1], module
    for name, child in module.named_children():
        yield from named_layers(child, f'{prefix}{name}.')


def parent_of(key: str) -> str:
    """Return the name of the module that holds a weight or a module."""
    return key.rpartition('.')[0]


def parents_of(key: str) -> Iterator[str]:
    """Yield the names of the modules around a weight, the outermost first."""
    parts = key.split('.')
    return ('.'.join(parts[:i]) for i in range(1, len(parts)))
