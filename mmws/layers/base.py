"""How a layer comes by the weight it computes with: what all weighted layers of mmws share."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mmws.compat.torch_private import is_tracing
from mmws.functional import Transposed, WeightFunction, apply
from mmws.functional.weight_function import Stored

from .fusing import refuse_fused_weight
from .source import active

# torch.fx records a call of this function instead of looking into it. fx replaces the name in the
# globals of this module alone, so that layers must call it from here.
torch.fx.wrap('apply')


# For type checkers, what a mixin is mixed into: a module.
if TYPE_CHECKING:
    _Module = nn.Module
else:
    _Module = object


class WeightFunctionMixin(_Module):
    """A layer that computes with a function of the weight it stores.

    Mixed into a layer of PyTorch's together with its kind (:mod:`mmws.layers.kinds`)::

        class ConvWS2d(WeightStandardization, ConvKind, nn.Conv2d): ...

    A weight function overrides :meth:`weight_function` and, if it stores more than ``weight``,
    :meth:`stored_weights`, with their names in :attr:`beside_weight`, their values in a new layer
    in :meth:`reset_beside_weight` and, where these are to follow a plain layer's weight,
    :meth:`adopt_plain_weight`; :meth:`formula` is for ``torch.jit.script``. A kind
    overrides ``forward``, which asks for :meth:`current_weight`.

    A layer alone makes its weight anew at every call. Several layers can have their weights made
    together, or held for an evaluation, by :mod:`mmws.training_step`.
    """

    if TYPE_CHECKING:
        weight: Tensor

        def __getattr__(self, name: str) -> Any:
            """Stand for the attributes of the plain layer."""

    # Names of what is stored beside `weight`, which the state dict of a plain layer lacks.
    beside_weight: ClassVar[tuple[str, ...]] = ()

    transposed = False  # convolutions say so themselves

    half_precision: ClassVar[bool] = True
    """Whether autocast lets the layer compute in half precision, rather than in float32."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        signature = _signature(cls)
        if signature is not None:
            cls.__signature__ = signature  # type: ignore[attr-defined]

    def weight_function(self) -> WeightFunction:
        """Return the function of :meth:`stored_weights` that gives the weight to compute with.

        It is for weights :math:`(O, ...)`; those of transposed layers are rearranged before.
        """
        raise NotImplementedError

    def stored_weights(self) -> Stored:
        """Return the stored tensors that make the weight, ``weight`` first."""
        return (self.weight,)

    def formula(self, weight: Tensor) -> Tensor:
        """Return what :meth:`weight_function` makes of ``weight``, for TorchScript to compile."""
        raise NotImplementedError

    def adopt_plain_weight(self) -> None:
        """Set what is stored beside ``weight``, just loaded from the state dict of a plain layer.

        Runs without gradients. By default what is there stays.
        """

    def reset_beside_weight(self) -> None:
        """Set what is stored beside ``weight`` to what a new layer with this ``weight`` has.

        By default what is there stays.
        """

    @classmethod
    def adopts_plain_weight(cls) -> bool:
        """Whether the layer, given a plain layer's weight, computes what that one did."""
        return cls.adopt_plain_weight is not WeightFunctionMixin.adopt_plain_weight

    def effective_weight(self) -> Tensor:
        """Return the weight that the layer computes with, of the shape and dtype of ``weight``.

        It is made anew, and differentiable with respect to the stored tensors.
        """
        return apply(self.stored_function(), *self.stored_weights())

    def current_weight(self) -> Tensor:
        """Return the weight for a forward pass: the active source's, else a new one.

        The active source may give it in the half precision of autocast.
        """
        if not is_tracing():
            source = active.source
            if source is not None:
                weight = source.weight_of(self)
                if weight is not None:
                    return weight
        return apply(self.stored_function(), *self.stored_weights())

    def stored_function(self) -> WeightFunction:
        """Return :meth:`weight_function` for the layout in which this layer stores its weight."""
        function = self.weight_function()
        return Transposed(function, self.groups) if self.transposed else function

    def __setattr__(self, name: str, value: Any) -> None:
        if name == 'weight':
            refuse_fused_weight(self, value)
        super().__setattr__(name, value)

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
        before = self._parameters.get('weight')
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, *args)
        beside = {prefix + name for name in self.beside_weight}
        if prefix + 'weight' in state_dict and beside.isdisjoint(state_dict):
            with torch.no_grad():
                assigned = self._parameters.get('weight') is not before
                if not assigned or self._beside_follows_weight():
                    self.adopt_plain_weight()
                    missing = [key for key in missing if key not in beside]
        missing_keys += missing

    def _beside_follows_weight(self) -> bool:
        """Bring what is stored beside ``weight`` to its device and dtype, after an assignment.

        Tensors on the meta device have no values to bring, so they get those of a new layer.
        Returns whether there are such values.
        """
        stored = {name: getattr(self, name) for name in self.beside_weight}
        empty = any(old.is_meta for old in stored.values()) and not self.weight.is_meta
        cls = type(self)
        resets = cls.reset_beside_weight is not WeightFunctionMixin.reset_beside_weight
        if empty and not resets and not cls.adopts_plain_weight():
            return False
        for name, old in stored.items():
            if old.device == self.weight.device and old.dtype == self.weight.dtype:
                continue
            new = torch.empty_like(old, device=self.weight.device, dtype=self.weight.dtype)
            if not old.is_meta:
                new.copy_(old)
            if isinstance(old, nn.Parameter):
                new = type(old)(new, requires_grad=old.requires_grad)
            setattr(self, name, new)
        if empty:
            self.reset_beside_weight()
        return True


def _signature(cls: type) -> inspect.Signature | None:
    """Return the arguments of a layer: those of the plain layer, then those of its mixins.

    ``__init__`` of a mixin takes what the plain layer takes as ``*args, **kwargs``; ``skip_init``
    of PyTorch, and whoever reads the documentation, looks for names such as ``device``.
    """
    plain = next((c for c in cls.__mro__ if not issubclass(c, WeightFunctionMixin)), object)
    if not issubclass(plain, nn.Module):
        return None
    parameters = {**inspect.signature(plain).parameters}
    for c in cls.__mro__[: cls.__mro__.index(plain)]:
        if '__init__' in vars(c):
            own = list(inspect.signature(vars(c)['__init__']).parameters.values())[1:]
            parameters.update({p.name: p for p in own if p.kind is p.KEYWORD_ONLY})
    return inspect.Signature(sorted(parameters.values(), key=lambda p: p.kind))
