"""Results of norms, and of sums and enlargements behind them, by their nodes in the graph.

A feature pyramid adds enlarged outputs of norms, and a residual connection may add two norms. What
comes out is recognized by the graph. The graph lists operations, but not in-place changes under
``no_grad``. So a result is not recognized if it, or the output of a norm that it was made from, was
changed by anything but the operations of the graph. Only a change of a sum before the next
operation is not seen, because nothing tells which tensor the sum was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmws.compat.torch_private import saved_by

from .recipes import Recipe

_KEY = 'mmws.training_step'
_MOST_OPERATIONS = 16
"""Operations in a row that are followed: graphs may be deeper than Python's stack."""

_MOST_SOURCES = 16
"""Outputs of norms in one result: a sum of more is kept, since remaking it takes too long."""


class _Source(NamedTuple):
    """The output of a norm that a result was made from.

    Attributes:
        counter: A tensor without elements that shares the version counter of the output.
        version: The version that the norm has put out.
    """

    counter: Tensor
    version: int

    def is_unchanged(self) -> bool:
        return self.counter._version == self.version


class Result(NamedTuple):
    """The output of a node of the graph.

    Attributes:
        recipe: How it is remade.
        dtype: Its dtype.
        sources: The outputs of norms that it was made from.
        address: Storage of the first source, which is that of the result if each operation has
            worked in place; None if the result cannot share it.
        operations: How many operations may have changed the first source in place.
    """

    recipe: Recipe
    dtype: torch.dtype
    sources: tuple[_Source, ...]
    address: int | None
    operations: int = 0

    def is_unchanged(self, tensor: Tensor, address: int, saved: bool) -> bool:
        """Whether a tensor, the output of the node, still is what the operations made.

        Args:
            tensor: The tensor.
            address: Its storage.
            saved: Whether a relu, which may have worked in place, has saved this version.
        """
        first, *others = self.sources
        if not all(source.is_unchanged() for source in others):
            return False
        if address == self.address:  # all operations have worked in place
            return bool(tensor._version == first.version + self.operations)
        # An operation has made a new tensor. Its version is 0, or 1 if a relu in place followed.
        fresh = tensor._version == 0 or (saved and tensor._version == 1)
        return fresh and first.is_unchanged()

    def after(self, recipe: Recipe, *others: Result) -> Result:
        """Return the result of an operation on this one and others, which may work in place."""
        sources = self.sources + tuple(s for other in others for s in other.sources)
        return self._replace(recipe=recipe, sources=sources, operations=self.operations + 1)


class Results:
    """The results of one pass."""

    def __init__(self) -> None:
        self._pass = object()
        # Nodes hold an index: they live as long as the loss, and a recipe's tensors would, too.
        self._results: list[Result | None] = []

    def clear(self) -> None:
        self._results.clear()

    def add_norm(self, out: Tensor, address: int, recipe: Recipe) -> None:
        """Add the output of a norm, in the storage of this address."""
        counter = out.detach()
        counter.data = out.new_empty(0)  # it shares the version counter, but no memory any more
        sources = (_Source(counter, out._version),)
        self._add(out.grad_fn, Result(recipe, out.dtype, sources, address))

    def of(self, node: Any, device: torch.device, depth: int = 0) -> Result | None:
        """Return the result of a node, None if it is not made from outputs of norms alone."""
        if node is None:
            return None
        owner, index = node.metadata.get(_KEY, (None, 0))
        if owner is self._pass:
            return self._results[index]
        operation = OPERATIONS.get(node.name())
        function = None if operation is None or depth == _MOST_OPERATIONS else operation(node)
        if function is None:
            return None
        parts: list[Result] = []
        for before, _ in node.next_functions:
            part = self.of(before, device, depth + 1)
            # A sum in place has the dtype of its first summand, a remade one the promoted dtype.
            if part is None or (parts and part.dtype != parts[0].dtype):
                return self._add(node, None)
            parts.append(part)
        recipe = Recipe(
            function, *(part.recipe for part in parts), device=device, replay_autocast=False
        )
        if node.name() == 'AddBackward0':
            result = parts[0].after(recipe, *parts[1:])
        else:  # a new tensor, of another size
            result = parts[0]._replace(recipe=recipe, address=None)
        return self._add(node, result if len(result.sources) <= _MOST_SOURCES else None)

    def _add(self, node: Any, result: Result | None) -> Result | None:
        node.metadata[_KEY] = self._pass, len(self._results)
        self._results.append(result)
        return result


def _add(node: Any) -> Callable[..., Tensor] | None:
    return torch.add if saved_by(node, 'alpha') == (1,) else None


def _enlarge(node: Any) -> Callable[..., Tensor] | None:
    options = saved_by(node, 'output_size', 'scales_h', 'scales_w')
    if options is None:
        return None
    return lambda x: torch.ops.aten.upsample_nearest2d(x, *options)


OPERATIONS: dict[str, Callable[[Any], Callable[..., Tensor] | None]] = {
    'AddBackward0': _add,
    'UpsampleNearest2DBackward0': _enlarge,
}
"""The name of a node, and what returns the function of such a node, None if it is not known."""
