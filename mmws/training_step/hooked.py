"""Which layers have hooks that may change what they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from mmws.compat.torch_private import global_hooks

_Hook = TypeVar('_Hook', bound=Callable[..., Any])


def observer(hook: _Hook) -> _Hook:
    """Mark a hook of mmws that changes neither a layer's weight nor its output."""
    hook.observes = True  # type: ignore[attr-defined]
    return hook


def has_pre_hooks(layer: nn.Module) -> bool:
    """Whether a hook may change the layer's input or weight before it runs, as pruning does."""
    hooks = layer._forward_pre_hooks
    return bool(hooks) and not all(hasattr(hook, 'observes') for hook in hooks.values())


def is_hooked(layer: nn.Module) -> bool:
    """Whether hooks other than observers see the layer, before or after it runs."""
    hooks = layer._forward_hooks.values()
    return global_hooks() or has_pre_hooks(layer) or not all(hasattr(h, 'observes') for h in hooks)
