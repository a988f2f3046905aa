"""What an operation that is in no table does to the scale of its inputs, by trying it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from .scale_rules import CLASH, Degree, Rule

# Powers of 16, whose roots are exact in every floating-point format. They reach far to both sides,
# so that a limit in between, such as the 6 of ReLU6, does not go unnoticed.
_FACTORS = (16.0**3, 16.0**-3)
_EXPONENTS = (0.0, 1.0, 2.0, 0.5, -1.0, -2.0, -0.5)
_RTOL = 1e-4


def probe(
    func: Any, args: Sequence[Any], kwargs: dict[str, Any], output: Any, degrees: dict[int, Degree]
) -> Rule:
    """Return the rule that an operation obeys when its inputs are scaled by their degrees.

    Args:
        func: The operation. It is called twice more, with new tensors.
        args: Its arguments.
        kwargs: Its keyword arguments.
        output: What it returned.
        degrees: ``id`` of each tensor among the arguments that has a degree other than 0, and the
            degree.

    Returns:
        A rule that holds for these degrees; for others it is :data:`CLASH`.
    """
    before = _tensors(output)
    fits = set(_EXPONENTS) if before else set()
    for factor in _FACTORS:

        def scaled(value: Any, factor: float = factor) -> Any:
            if not isinstance(value, Tensor):
                return value
            degree = degrees.get(id(value))
            return value.clone() if not degree else value * factor**degree

        try:
            after = _tensors(func(*tree_map(scaled, list(args)), **tree_map(scaled, kwargs)))
        except (RuntimeError, ValueError, IndexError, NotImplementedError):
            return lambda inputs: CLASH if any(inputs) else 0.0  # it does not take such values
        fits = {k for k in fits if _equal(before, after, factor**k)}
    known = {degree for degree in degrees.values() if degree}
    exponent = min(fits) if len(fits) == 1 else (0.0 if 0.0 in fits else None)

    def rule(inputs: Sequence[Degree]) -> Any:
        if not any(inputs):
            return 0.0
        fits_inputs = {degree for degree in inputs if degree} == known
        return exponent if fits_inputs and exponent is not None else CLASH

    return rule


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def _equal(before: list[Tensor], after: list[Tensor], factor: float) -> bool:
    for first, second in zip(before, after):
        if first.shape != second.shape:
            return False
        if first.is_floating_point():
            first, second = first.double() * factor, second.double()
            size = first.abs().max() if first.numel() else first.new_zeros(())
            if not torch.allclose(first, second, rtol=_RTOL, atol=float(size) * 1e-6):
                return False
        elif not torch.equal(first, second):
            return False
    return True
