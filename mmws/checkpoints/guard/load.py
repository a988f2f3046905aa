"""A load that is to be checked, and a mismatch that a check finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor, nn

from .model import named_layers
from .origins import origins_of


class Mismatch(NamedTuple):
    """A difference between a model and the weights that it is to load."""

    text: str
    """One line that names the checkpoint, the mismatch, its effect and the fix."""
    is_error: bool = False
    """Whether the load must not take place; otherwise the user is warned."""


@dataclass(frozen=True)
class Load:
    """A model and the weights that it is to load.

    Attributes:
        model: The model, without wrappers.
        weights: Tensors by the names that they have in the model.
    """

    model: nn.Module
    weights: Mapping[str, Tensor]

    @cached_property
    def name(self) -> str:
        """What messages call the weights: ``checkpoint`` and the files that they were read from."""
        names = ', '.join(origin.name for origin in origins_of(self.weights))
        return f'checkpoint {names or "weights"}'

    @cached_property
    def layers(self) -> Mapping[str, nn.Module]:
        """All modules of the model by name."""
        return dict(named_layers(self.model))
