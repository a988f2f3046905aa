"""Recipes of values that are remade, and what stands for tensors in the graph of autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmws.compat.torch_private import autocast_dtype


def _check_version(tensor: Tensor, version: int) -> None:
    if tensor._version != version:
        raise RuntimeError(
            f'a tensor of shape {tuple(tensor.shape)} needed for gradient computation has been '
            f'modified by an inplace operation: it is at version {tensor._version}, expected '
            f'version {version}'
        )


class Kept:
    """An ingredient of a recipe that is kept; ``value()`` is that of a recipe.

    Args:
        tensor: What is kept; None for a bias, for instance, that a layer does not have.
    """

    def __init__(self, tensor: Tensor | None) -> None:
        self._tensor = None if tensor is None else tensor.detach()
        self._version = 0 if tensor is None else tensor._version

    def value(self) -> Tensor | None:
        if self._tensor is not None:
            _check_version(self._tensor, self._version)
        return self._tensor


class Recipe:
    """How a value is computed from its ingredients, and the value while it is in use."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        *ingredients: Kept | Recipe,
        device: torch.device,
        replay_autocast: bool = True,
    ) -> None:
        self._function = function
        self._ingredients = ingredients
        self._device_type = device.type
        self._autocast = autocast_dtype(device.type) if replay_autocast else None
        self.strides: tuple[int, ...] | None = None  # of the value in the forward pass
        self._value: Tensor | None = None
        self.users = 0  # slots of the graph that stand for the value

    def value(self) -> Tensor:
        if self._value is not None:
            return self._value
        ingredients = [ingredient.value() for ingredient in self._ingredients]
        half = self._autocast
        autocast = torch.autocast(
            self._device_type, half, enabled=half is not None, cache_enabled=False
        )
        with torch.no_grad(), autocast:  # the backward pass runs in another state
            value = self._function(*ingredients)
            if self.strides is not None and value.stride() != self.strides:
                value = value.new_empty_strided(value.shape, self.strides).copy_(value)
        if self.users:
            self._value = value
        return value


class Slot:
    """Stands in the graph for a value that is remade."""

    def __init__(self, recipe: Recipe, tensor: Tensor) -> None:
        self._recipe = recipe
        self._geometry = tensor.shape, tensor.stride()
        recipe.users += 1

    def __del__(self) -> None:
        self._recipe.users -= 1
        if not self._recipe.users:
            self._recipe._value = None

    def value(self) -> Tensor:
        return self._recipe.value().as_strided(*self._geometry)


class Box:
    """Stands in the graph for a tensor that is kept, until its recipe becomes known.

    Its tensor is detached. A node of the graph that keeps its own output, as that of a sigmoid,
    would otherwise hold itself, and only a backward pass would free it. The costs by which a
    detector matches predictions with objects have no backward pass, so they would stay in memory.
    Autograd attaches the tensor to the graph again when it is needed.
    """

    __slots__ = ('__weakref__', 'content', 'version')

    def __init__(self, tensor: Tensor) -> None:
        self.content: Tensor | Slot = tensor if tensor.is_leaf else tensor.detach()
        self.version = tensor._version

    def value(self) -> Tensor:
        content = self.content
        if isinstance(content, Slot):
            return content.value()
        _check_version(content, self.version)
        return content
