"""Tools that fuse Batch Normalization into a convolution must not write to a stored weight.

They multiply each filter by a factor. A weight function that fixes the scale of a filter takes the
factor away again, and the fused model computes something else without a word.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mmws.compat import when_imported

_RTOL = 1e-3

# Functions that read the weights of convolutions by themselves: modules and names.
_TOOLS = (
    ('torch.utils.mkldnn', 'to_mkldnn'),
    ('mmengine.model.efficient_conv_bn_eval', 'turn_on_efficient_conv_bn_eval_for_single_model'),
)


def refuse_fused_weight(layer: nn.Module, value: Any) -> None:
    """Raise if ``value`` is to be the weight of ``layer``, and its filters are multiples.

    This is for evaluation mode, in which all such tools work.

    Raises:
        ValueError: if every filter is the old one times a number, and not all numbers are 1, or 0
            as where filters are pruned.
    """
    stored = vars(layer).get('_parameters', {}).get('weight')
    if stored is None or layer.training or not isinstance(value, nn.Parameter):
        return
    if _is_rescaled(value, stored):
        raise ValueError(
            f'{type(layer).__name__}: the new weight is the old one with every filter multiplied, '
            'as by a tool that fuses Batch Normalization into it. The layer would take the '
            'factors away again: call mmws.fold(model) first, and fuse then'
        )


@torch.no_grad()
def _is_rescaled(new: Tensor, old: Tensor) -> bool:
    if new is old or new.shape != old.shape or new.is_meta or old.is_meta or not new.numel():
        return False
    return any(_factors_fit(new, old, dim) for dim in range(min(2, old.dim())))


def _factors_fit(new: Tensor, old: Tensor, dim: int) -> bool:
    """Return whether slices along ``dim`` are multiples of the old ones, not all by 1 or 0."""
    first = old.detach().movedim(dim, 0).flatten(1).double()
    second = new.detach().to(old.device).movedim(dim, 0).flatten(1).double()
    if first.shape[1] == 1 or not first.any():  # anything is a multiple of a single value
        return False
    length = first.square().sum(1, keepdim=True).clamp(min=1e-300)
    factors = (first * second).sum(1, keepdim=True) / length
    # A factor of 0 comes from pruning a filter, not from fusing a norm into it.
    unchanged = bool((((factors - 1).abs() <= _RTOL) | (factors == 0)).all())
    size = float(second.abs().max())
    close = (first * factors - second).abs() <= _RTOL * second.abs() + 1e-6 * size
    return not unchanged and bool(close.all())


def refuse_stored_weights(module: ModuleType, name: str) -> None:
    """Let the function ``name`` of a library, which reads stored weights, refuse weighted layers.

    Args:
        module: The module that defines the function. Its first argument is the model.
        name: Name of the function.
    """
    function = getattr(module, name, None)
    if function is None or hasattr(function, '_refuses'):
        return

    @functools.wraps(function)
    def refusing(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        for path, layer in model.named_modules():
            if getattr(layer, 'current_weight', None) is not None:
                raise ValueError(
                    f'{module.__name__}.{name} would compute with the stored weight of '
                    f'{path or "the model"} ({type(layer).__name__}), not with its function: call '
                    'mmws.fold(model) first'
                )
        return function(model, *args, **kwargs)

    vars(refusing)['_refuses'] = True
    setattr(module, name, refusing)


def guard_tools() -> None:
    """Guard the tools of PyTorch and MMEngine that no attribute of a layer could stop."""
    for module, name in _TOOLS:
        when_imported(module, functools.partial(refuse_stored_weights, name=name))
