"""Layers with PyTorch's own Weight Normalization, its old form and its new one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm


def fold_torch_weight_norm(model: nn.Module) -> None:
    """Replace weights that ``torch.nn.utils`` normalizes by their values, in place.

    Both forms are folded: the hook of ``torch.nn.utils.weight_norm`` and the parametrization of
    ``torch.nn.utils.parametrizations.weight_norm``.
    """
    for module in list(model.modules()):
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, WeightNorm):
                hook.remove(module)
                del module._forward_pre_hooks[key]
        if _is_weight_norm_alone(module):
            _fold_parametrizations(module)


def _is_weight_norm_alone(module: Any) -> bool:
    """Return whether Weight Normalization makes every parametrized tensor of ``module``."""
    if not parametrize.is_parametrized(module):
        return False
    weight_norm = getattr(torch.nn.utils.parametrizations, '_WeightNorm', ())
    steps = [step for chain in module.parametrizations.values() for step in chain]
    return all(isinstance(step, weight_norm) for step in steps)


@torch.no_grad()
def _fold_parametrizations(module: Any) -> None:
    # Not remove_parametrizations(), which changes the class: copies of the module have it too.
    chains = module._modules.pop('parametrizations')
    values = {}
    for name, chain in chains.items():
        trainable = any(original.requires_grad for original in chain.parameters())
        values[name] = nn.Parameter(chain().detach().clone(), requires_grad=trainable)
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, value)
