"""Where a layer's effective weight comes from while something makes it on the layer's behalf."""

from __future__ import annotations

import threading
from types import FrameType
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class WeightSource(Protocol):
    """Makes effective weights for the layers of a model, as long as it is the active source."""

    def weight_of(self, layer: Any) -> Tensor | None:
        """Return the layer's effective weight, None if the layer shall make its own."""


class Pass(NamedTuple):
    """A forward pass that is running."""

    owner: object
    """Who accompanies it."""
    before: WeightSource | None
    """The source that was active when it began."""
    frame: FrameType
    """Of the call in which it runs."""


class _Active(threading.local):
    def __init__(self) -> None:
        self.source: WeightSource | None = None
        """What layers ask now."""
        self.passes: list[Pass] = []
        """The passes that are running, the innermost last."""


active = _Active()
"""The state of the current thread."""
