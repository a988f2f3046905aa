"""Layers with Weight Standardization whose output no norm takes.

A standardized filter has unit variance, whatever its fan-in: each layer multiplies the scale of its
input by the root of its fan-in. A norm behind it takes the scale away. Without one the features
grow from layer to layer, and after a few iterations the loss is infinite.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from mmws.layers import WeightStandardization

from .hooked import observer

_NORMS = (nn.GroupNorm, nn.LayerNorm, _BatchNorm, _InstanceNorm)
_WEIGHTED = ('ConvolutionBackward0', 'AddmmBackward0', 'MmBackward0', 'UnsafeViewBackward0')


class NormCheck:
    """Watch passes of a model for outputs of standardized layers that reach no norm.

    ::

        with NormCheck(model) as check:
            loss = model(images)
        print(check.unnormalized())

    An output counts as normalized if it is the input of a norm, or becomes a part of one by other
    operations than convolutions and linear maps, such as the sum of a residual connection. That is
    read from the graph; outputs that need no gradient, such as those of frozen layers, and layers
    that did not run are not judged. ScaledWS and ConvAWS, which are made to do without, are left.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {m: name for name, m in model.named_modules()}
        self._nodes: dict[Any, str] = {}  # of outputs in the graph
        self._judged: set[str] = set()
        self._normalized: set[str] = set()
        self._seen: set[Any] = set()
        self._handles = []
        for module in self._names:
            if isinstance(module, WeightStandardization):
                self._handles.append(module.register_forward_hook(self._after_layer))
            elif isinstance(module, _NORMS):
                self._handles.append(module.register_forward_pre_hook(self._before_norm))

    def __enter__(self) -> NormCheck:
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._nodes.clear()
        self._seen.clear()

    def unnormalized(self) -> list[str]:
        """Return the names of layers that ran and whose outputs reached no norm."""
        order = self._names.values()
        return [name for name in order if name in self._judged - self._normalized]

    @observer
    def _after_layer(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.grad_fn is not None:
            self._judged.add(self._names[layer])
            self._nodes[output.grad_fn] = self._names[layer]

    @observer
    def _before_norm(self, norm: nn.Module, args: tuple[Any, ...]) -> None:
        if not args or not isinstance(args[0], Tensor):
            return
        waiting = [args[0].grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in self._seen:
                continue
            self._seen.add(node)
            if node in self._nodes:
                self._normalized.add(self._nodes[node])
            elif node.name() not in _WEIGHTED:
                waiting += [before for before, _ in node.next_functions]


def describe(names: list[str]) -> str:
    """Return the sentence that says what is wrong with these layers, and what to do."""
    shown = ', '.join(names[:8]) + (f' and {len(names) - 8} more' if len(names) > 8 else '')
    return (
        f'no norm follows these layers with Weight Standardization: {shown}. Their outputs grow '
        'from layer to layer, and the loss may diverge: give this part of the model norm_cfg='
        "dict(type='mmws.GN'), or plain convolutions (no conv_cfg)"
    )
