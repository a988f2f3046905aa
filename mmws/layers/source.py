"""Where a layer's effective weight comes from while something makes it on the layer's behalf."""

from __future__ import annotations

import threading
from typing import Any, Protocol

from torch import Tensor


class WeightSource(Protocol):
    """Makes effective weights for the layers of a model, as long as it is the active source."""

    def weight_of(self, layer: Any) -> Tensor | None:
        """Return the layer's effective weight, None if the layer shall make its own."""


class _Active(threading.local):
    def __init__(self) -> None:
        self.source: WeightSource | None = None
        """What layers ask now."""
        self.passes: list[tuple[object, WeightSource | None]] = []
        """The passes that are running: who accompanies each, and the source before it."""


active = _Active()
"""The state of the current thread."""
