"""Something that accompanies every forward pass of a model, by hooks of the model alone."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, TypeVar

from torch import nn

from mmws.compat.torch_private import is_tracing
from mmws.layers.source import Pass, WeightSource, active

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
        """Detach from the model; a pass that is running goes on without this object."""
        _end_interrupted_passes()
        while any(running.owner is self for running in active.passes):
            self._end_pass()
        for handle in self._handles:
            handle.remove()

    def __enter__(self: _Attached) -> _Attached:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _begin(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        if is_tracing() or model is not self.model:
            return
        _end_interrupted_passes()
        active.passes.append(Pass(self, active.source, sys._getframe(1)))
        source = self.begin(model)
        if source is not None:
            active.source = source

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not is_tracing() and any(running.owner is self for running in active.passes):
            self._end_pass()

    def _end_pass(self) -> None:
        """End the innermost pass of this object, and those that began in it and did not end."""
        owner: object = None
        while owner is not self:
            source = active.source
            owner, active.source, _ = active.passes.pop()
            if source is not None and source is not active.source:
                assert isinstance(owner, Attached)
                owner.end(source)


def _end_interrupted_passes() -> None:
    """End passes that nobody has ended: PyTorch calls no hook after a KeyboardInterrupt."""
    if not active.passes:
        return
    frames: set[FrameType] = set()
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        frames.add(frame)
        frame = frame.f_back
    while active.passes and active.passes[-1].frame not in frames:
        owner = active.passes[-1].owner
        assert isinstance(owner, Attached)
        owner._end_pass()
