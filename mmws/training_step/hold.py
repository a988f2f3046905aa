"""Effective weights held for an evaluation, made once for many forward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmws.compat.torch_private import autocast_dtype, transforms_active
from mmws.functional import Stored, closed_form_applies
from mmws.layers import WeightFunctionMixin

from .attach import Attached
from .together import autocast_device

_State = tuple[int, int, int]


class HeldWeights(Attached):
    """Holds the effective weights of a model: see :func:`hold_weights`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._forget()

    def remove(self) -> None:
        super().remove()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), '_made': {}, '_states': {}}

    def begin(self, model: nn.Module) -> HeldWeights | None:
        states = self._states.items()
        if model.training or any(
            _state(layer.stored_weights()) != old for layer, (_, old) in states
        ):
            self._forget()
        return None if torch.is_grad_enabled() else self

    def weight_of(self, layer: WeightFunctionMixin) -> Tensor | None:
        """Return the layer's weight, None if the layer shall make its own."""
        if torch.is_grad_enabled() or transforms_active():
            return None
        made = self._made.get(layer)
        if made is not None:
            device, weights = made
            weight = weights.get(autocast_dtype(device))
            if weight is not None:
                return weight
        return self._make(layer)

    def _forget(self) -> None:
        # Layer -> the device whose autocast counts, None where none does, and the weight by the
        # half precision of autocast.
        self._made: dict[
            WeightFunctionMixin, tuple[str | None, dict[torch.dtype | None, Tensor]]
        ] = {}
        # What a layer stored when its weight was made, and the state of that. The tensors are held,
        # so that no other gets their identity.
        self._states: dict[WeightFunctionMixin, tuple[Stored, list[_State]]] = {}

    def _make(self, layer: WeightFunctionMixin) -> Tensor | None:
        stored = layer.stored_weights()
        if not closed_form_applies(*stored):
            return None
        device = autocast_device(layer, stored)
        half = autocast_dtype(device)
        # A normal tensor serves later passes in and out of inference mode alike.
        with torch.inference_mode(False), torch.no_grad():
            weight = layer.effective_weight()
            weight = weight if half is None else weight.to(half)
        if type(weight) is not Tensor:  # made under a mode of fake tensors
            return None
        if weight.is_cuda:
            if torch.cuda.is_current_stream_capturing():
                return weight  # in the memory of the graph
            torch.cuda.current_stream(weight.device).synchronize()  # other streams use it, too
        self._made.setdefault(layer, (device, {}))[1][half] = weight
        self._states[layer] = stored, _state(stored)
        return weight


def _state(stored: Stored) -> list[_State]:
    """Return for each tensor its identity, its version, and where it has its data."""
    present = [t for t in stored if t is not None]
    return [(id(t), 0 if t.is_inference() else t._version, t.data_ptr()) for t in present]


def hold_weights(model: nn.Module) -> HeldWeights:
    """Hold the effective weights of a model for evaluation, until ``remove()`` is called.

    ::

        with mmws.hold_weights(model), torch.no_grad():
            for images in loader:
                model(images)

        model = init_detector(config, checkpoint)
        mmws.hold_weights(model)  # for as long as the model lives

    Each layer makes its weight in the first forward pass of ``model`` without gradients, and uses
    it in the following ones. Forward passes with gradients, and calls of a part of the model
    instead of the model itself, make weights anew.

    The weights are made again after a pass in training mode, and after a stored weight was replaced
    (``model.half()``, ``model.to()``) or changed in place such that PyTorch counts it (optimizers,
    ``load_state_dict``). Changes without a trace are not seen: writes into ``.data``, or by NumPy,
    fused optimizers or collectives. Call ``remove()`` before, and hold again.

    Args:
        model: Any module; the passes are calls of it.

    Returns:
        An object with ``remove()``, which is a context manager, too.
    """
    return HeldWeights(model)
