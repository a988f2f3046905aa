"""Copies of models that hold tensors of a graph of gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of ``model``.

    PyTorch refuses to copy tensors that are no leaves of the graph of gradients. Models hold such
    tensors: the hooks of ``torch.nn.utils`` leave the last weight that they computed in the layer,
    and some detectors what they need of the last training step. In the copy they have the same
    values, and no graph.
    """
    with _CopyWithoutGraph():
        return copy.deepcopy(model)


class _CopyWithoutGraph(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = twin = tensor.detach().clone()
            return twin
        return func(*args, **(kwargs or {}))
