"""Something that accompanies every forward pass of a model, by hooks of the model alone."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from mmws.compat.torch_private import is_tracing
from mmws.layers.source import WeightSource, active

_Attached = TypeVar('_Attached', bound='Attached')


class Attached:
    """Makes a :class:`~mmws.layers.source.WeightSource` the active one in each pass of a model.

    The source belongs to the thread that runs the pass, so that passes of several threads, and
    passes within a pass, do not meet. A copy of the model is accompanied by a copy of this object.
    What ``torch.compile`` or another tracer records is left alone, and so are the replicas of
    ``nn.DataParallel``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._handles = [
            model.register_forward_pre_hook(self._begin, prepend=True),
            model.register_forward_hook(self._end, always_call=True),
        ]

    def begin(self, model: nn.Module) -> WeightSource | None:
        """Return the source of weights for the pass that begins, None for no source."""
        raise NotImplementedError

    def end(self, source: WeightSource) -> None:
        """Do what is to be done after a pass, which may have failed."""

    def remove(self) -> None:
        """Detach from the model."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self: _Attached) -> _Attached:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _begin(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        if is_tracing() or model is not self.model:
            return
        active.passes.append((self, active.source))
        source = self.begin(model)
        if source is not None:
            active.source = source

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        passes = active.passes
        if is_tracing() or not any(owner is self for owner, _ in passes):
            return
        source = active.source
        while True:  # passes above this one are of objects that were detached meanwhile
            owner, active.source = passes.pop()
            if owner is self:
                break
        if source is not None and source is not active.source:
            self.end(source)
