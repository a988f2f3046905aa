"""How a layer comes by the weight it computes with: what all weighted layers of mmws share."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from mmws import functional
from mmws.functional import Operation, Transposed, WeightFunction


class WeightFunctionMixin:
    """A layer that computes with a function of the weight it stores.

    Mixed into a layer of PyTorch's together with its kind (:mod:`mmws.layers.kinds`)::

        class ConvWS2d(WeightStandardization, ConvKind, nn.Conv2d): ...

    A weight function overrides :meth:`weight_function` and, if it stores more than ``weight``,
    :meth:`stored_weights`, with their names in :attr:`beside_weight` and, where these are to follow
    a plain layer's weight, :meth:`adopt_plain_weight`. A kind overrides :meth:`bind`.

    While gradients are on, the weight is made in forward and made again in backward, and not kept
    in between. In evaluation without gradients it is made once and reused until a stored tensor
    changes: in place, through ``.data``, by a new parameter, by moving or loading the model. Not
    noticed are writes through an alias of ``.data`` taken before the first evaluation, and
    through the ``.data`` of a buffer; ``train()`` and ``eval()`` forget the weight in any case.
    """

    # Names of what is stored beside `weight`, which the state dict of a plain layer lacks.
    beside_weight: tuple[str, ...] = ()

    # What _reuse last made and from what. One attribute, so that threads read a whole entry or
    # none; neither copied nor pickled.
    _reusable: tuple[tuple[Tensor | None, ...], Hashable, Tensor] | None = None

    transposed = False  # convolutions say so themselves

    def weight_function(self) -> WeightFunction:
        """Return the function of :meth:`stored_weights` that gives the weight to compute with.

        It is for weights :math:`(O, ...)`; those of transposed layers are rearranged before.
        """
        raise NotImplementedError

    def stored_weights(self) -> tuple[Tensor | None, ...]:
        """Return the stored tensors that make the weight, ``weight`` first."""
        return (self.weight,)

    def bind(self, *args: Any) -> tuple[Operation, tuple[Tensor | None, ...]]:
        """Return what ``forward(*args)`` does with the weight, and its inputs beside it."""
        raise NotImplementedError

    def adopt_plain_weight(self) -> None:
        """Set what is stored beside ``weight``, just loaded from the state dict of a plain layer.

        Runs without gradients. By default what is there stays.
        """

    @classmethod
    def adopts_plain_weight(cls) -> bool:
        """Whether the layer, given a plain layer's weight, computes what that one did."""
        return cls.adopt_plain_weight is not WeightFunctionMixin.adopt_plain_weight

    def effective_weight(self) -> Tensor:
        """Return the weight that the layer computes with, of the shape and dtype of ``weight``.

        It is differentiable with respect to the stored tensors.
        """
        return functional.apply(self._function(), self.stored_weights())

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        operation, inputs = self.bind(*args, **kwargs)
        function, stored = self._function(), self.stored_weights()
        # Autocast would cast the weight behind our back, and the backward pass runs without it.
        autocast = _autocast_dtype(inputs[0]) if _autocast_enabled(inputs[0]) else None
        dtype = None
        if autocast is not None:
            dtype = autocast if operation.half_precision else torch.float32
            inputs = tuple(_cast(t, dtype) for t in inputs)
        if self.training or torch.is_grad_enabled() or functional.is_tracing():
            out = functional.apply(function, stored, operation, inputs, dtype)
        else:
            out = operation.forward(self._reuse(function, stored, dtype), *inputs)
        return out if autocast is None else out.to(autocast)

    def train(self, mode: bool = True) -> WeightFunctionMixin:
        self._reusable = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop('_reusable', None)
        return state

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        *args: Any,
    ) -> None:
        missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, *args)
        beside = {prefix + name for name in self.beside_weight}
        if prefix + 'weight' in state_dict and beside.isdisjoint(state_dict):
            with torch.no_grad():
                self.adopt_plain_weight()
            missing = [key for key in missing if key not in beside]
        missing_keys += missing

    def _function(self) -> WeightFunction:
        function = self.weight_function()
        return Transposed(function, self.groups) if self.transposed else function

    def _reuse(
        self,
        function: WeightFunction,
        stored: tuple[Tensor | None, ...],
        dtype: torch.dtype | None,
    ) -> Tensor:
        """Return ``function(*stored)``, made only if it was not made from the same before."""
        if not all(t is None or _leaves_a_trace(t) for t in stored):
            return functional.apply(function, stored, dtype=dtype)
        key = (function, dtype, *map(_state, stored))
        reusable = self._reusable
        if reusable is not None:
            known, known_key, weight = reusable
            if known_key == key and all(a is b for a, b in zip(known, stored)):
                return weight
        # A normal tensor serves later calls in and out of inference mode alike.
        with torch.inference_mode(False), torch.no_grad():
            weight = functional.apply(function, stored, dtype=dtype)
        if weight.is_cuda:
            if torch.cuda.is_current_stream_capturing():
                return weight  # in the memory of the graph
            torch.cuda.current_stream(weight.device).synchronize()  # other streams reuse it too
        self.__dict__['_reusable'] = (stored, key, weight)
        return weight


class _WatchedParameter(nn.Parameter):
    """A parameter that counts how often ``.data`` was asked for or assigned.

    Writing through ``.data``, as MMEngine's moving averages do, leaves ``_version`` as it was.
    Checkpoints hold ordinary parameters.
    """

    _times_exposed = 0

    @property
    def data(self) -> Tensor:
        self._times_exposed += 1
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, value: Tensor) -> None:
        self._times_exposed += 1
        Tensor.data.__set__(self, value)


def _leaves_a_trace(tensor: Tensor) -> bool:
    """Whether a change of the tensor shows: not in inference tensors, fake or distributed ones."""
    return type(tensor) in (Tensor, nn.Parameter, _WatchedParameter) and not tensor.is_inference()


def _state(tensor: Tensor | None) -> Hashable:
    """Something that differs when the values of this very tensor may have changed."""
    if tensor is None:
        return None
    if type(tensor) is nn.Parameter:
        tensor.__class__ = _WatchedParameter
    return tensor._version, tensor.data_ptr(), getattr(tensor, '_times_exposed', 0)


def _autocast_enabled(input: Tensor) -> bool:
    """Whether autocast may be on for this input: one quick answer for the usual devices."""
    return torch._C._is_any_autocast_enabled() or not (input.is_cpu or input.is_cuda)


def _autocast_dtype(input: Tensor) -> torch.dtype | None:
    """Return the dtype in which autocast computes on this input, None if it leaves it alone."""
    device_type = input.device.type
    if device_type == 'meta' or input.dtype == torch.float64:
        return None
    if hasattr(torch, 'get_autocast_dtype'):
        enabled = torch.is_autocast_enabled(device_type)
        return torch.get_autocast_dtype(device_type) if enabled else None
    if device_type == 'cpu':  # PyTorch < 2.4
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Cast as autocast does, which leaves float64 alone."""
    if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(dtype)
