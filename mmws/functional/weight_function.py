"""The contract of a weight function, and how its value gets a gradient.

:func:`apply` makes the weight of one layer; :func:`apply_together` those of many layers by one node
of the graph, which is several times faster for small filters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from mmws.compat.torch_private import is_batched, is_tracing, transforms_active

Stored = tuple[Tensor, Unpack[tuple[Tensor | None, ...]]]
"""What a layer stores for its weight: ``weight``, and other tensors or None where absent."""

Gradients = tuple[Tensor | None, ...]
"""The gradients of what a layer stores, None where not needed."""


class WeightFunction:
    """A differentiable map from the tensors that a layer stores to the weight it computes with.

    A subclass must define ``__call__`` in differentiable PyTorch; that is enough for layers,
    training, evaluation and compiling. :meth:`evaluate` and :meth:`gradients` are the same with a
    closed-form gradient; they run on plain tensors, without a graph. The two that end in ``_all``
    do it for many layers at once.

    Subclasses are immutable and compare by value: layers of equal functions are made together.
    """

    def __call__(self, weight: Tensor, *others: Tensor | None) -> Tensor:
        """Return the weight to compute with, of the shape and dtype of ``weight``.

        Args:
            weight: The stored weight, :math:`(O, ...)`.
            *others: Further stored tensors, such as a gain for each filter; None where absent.
        """
        raise NotImplementedError

    def filters(self, weight: Tensor) -> Tensor:
        """Return the stored weight as :math:`(O, ...)`, one filter to a row."""
        return weight

    def evaluate(self, *stored: Unpack[Stored]) -> tuple[Tensor, Sequence[Tensor]]:
        """Return what ``__call__`` returns, and the vectors that :meth:`gradients` needs."""
        return self(*stored), ()

    def gradients(
        self, grad: Tensor, needs: Sequence[bool], kept: Sequence[Tensor], *stored: Unpack[Stored]
    ) -> Gradients:
        """Return the gradients with respect to the stored tensors, None where not needed.

        Args:
            grad: Gradient with respect to what :meth:`evaluate` returned, of any dtype.
            needs: For every stored tensor, whether its gradient is needed.
            kept: The vectors that :meth:`evaluate` returned.
            *stored: The arguments of ``__call__``.
        """
        return differentiate(self, needs, stored, grad.to(stored[0].dtype))

    def evaluate_all(
        self, stored: Sequence[Stored], dtype: torch.dtype | None = None
    ) -> tuple[list[Tensor], Sequence[Any]]:
        """Do :meth:`evaluate` for many layers, whose tensors have one dtype and one device.

        Args:
            stored: For every layer, the arguments of ``__call__``.
            dtype: What the weights are rounded to; by default they keep their dtype.

        Returns:
            The weights, and what :meth:`gradients_all` needs.
        """
        pairs = [self.evaluate(*tensors) for tensors in stored]
        weights = [weight if dtype is None else weight.to(dtype) for weight, _ in pairs]
        return weights, [kept for _, kept in pairs]

    def gradients_all(
        self, grads: Sequence[Tensor], needs: Sequence[bool], kept: Sequence[Any],
        stored: Sequence[Stored],
    ) -> list[Gradients]:  # fmt: skip
        """Do :meth:`gradients` for many layers, of which some may not need all gradients."""
        return [
            self.gradients(grad, needs, kept_by_layer, *tensors)
            for grad, kept_by_layer, tensors in zip(grads, kept, stored)
        ]


def apply(function: WeightFunction, *stored: Unpack[Stored]) -> Tensor:
    """Return ``function(*stored)``, with its closed-form gradient where that may be used.

    Double backward, forward-mode AD, ``torch.func``, tracing, compiling and subclasses of tensors
    take the formula instead.
    """
    if not closed_form_applies(*stored):
        # Before PyTorch 2.12, Dynamo cannot call a frozen dataclass that holds another one, but it
        # can call the method.
        return function.__call__(*stored)
    if torch.is_grad_enabled():
        return _Apply.apply(function, *stored)
    return function.evaluate(*stored)[0]


class _Apply(torch.autograd.Function):
    """One weight with the closed-form gradient of its function.

    What the backward pass needs is kept in attributes, not by ``save_for_backward``: an activation
    checkpoint, which compares what is saved in the forward pass and when it recomputes, must not
    see whether a weight was made here or by :func:`apply_together`. So versions are compared here.
    """

    @staticmethod
    def forward(ctx: Any, function: WeightFunction, *stored: Unpack[Stored]) -> Tensor:
        ctx.function, ctx.stored, ctx.versions = function, stored, _versions(stored)
        weight, ctx.kept = function.evaluate(*stored)
        return weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        stored, needs = ctx.stored, ctx.needs_input_grad[1:]
        _check_versions(stored, ctx.versions)
        if _needs_graph(grad):
            return None, *differentiate(ctx.function, needs, stored, grad)
        return None, *ctx.function.gradients(grad, needs, ctx.kept, *stored)


def _versions(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if t is None else t._version for t in tensors]


def _check_versions(tensors: Sequence[Tensor | None], versions: Sequence[int]) -> None:
    for tensor, version in zip(tensors, versions):
        if tensor is not None and tensor._version != version:
            raise RuntimeError(
                f'a stored weight of shape {tuple(tensor.shape)} has been modified by an inplace '
                'operation between the forward and the backward pass: its gradient can no longer '
                'be computed'
            )


def apply_together(
    functions: Sequence[WeightFunction],
    stored: Sequence[Stored],
    dtypes: Sequence[torch.dtype | None],
) -> tuple[Tensor, ...]:
    """Return the weights of many layers, made by one node of the graph.

    A weight that no gradient reaches gives None to its stored tensors, as if it had a node of its
    own. Parts of the graph may have backward passes of their own.

    Args:
        functions: The weight function of every layer.
        stored: The tensors that every layer stores.
        dtypes: What to round each weight to, such as the dtype of autocast; None for its own dtype.

    Raises:
        RuntimeError: in the backward pass, if a stored tensor was changed in place after its
            weight was made, and a gradient of that weight arrives.
    """
    return _ApplyTogether.apply(functions, stored, dtypes, *chain.from_iterable(stored))


class _ApplyTogether(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, functions: Sequence[WeightFunction], stored: Sequence[Stored],
        dtypes: Sequence[torch.dtype | None], *tensors: Tensor | None,
    ) -> Any:  # fmt: skip
        ctx.set_materialize_grads(False)
        ctx.functions, ctx.stored, ctx.dtypes = functions, stored, dtypes
        ctx.tensors, ctx.versions = tensors, _versions(tensors)
        ctx.families = []
        made: list[Any] = [None] * len(stored)
        for members in _families(functions, stored, dtypes):
            first = members[0]
            weights, kept = functions[first].evaluate_all(
                [stored[i] for i in members], dtypes[first]
            )
            ctx.families.append((members, kept))
            for i, weight in zip(members, weights):
                made[i] = weight
        needs = ctx.needs_input_grad[3:]
        if not all(needs):
            frozen = [w for w, need in zip(made, _by_layer(stored, needs)) if not any(need)]
            ctx.mark_non_differentiable(*frozen)
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        changed = _versions(ctx.tensors) != ctx.versions
        needs = _by_layer(ctx.stored, ctx.needs_input_grad[3:])
        results: list[Gradients] = [(None,) * len(tensors) for tensors in ctx.stored]
        for members, kept in ctx.families:
            arrived = [i for i in members if grads[i] is not None]
            if not arrived:
                continue
            if changed:
                versions = _by_layer(ctx.stored, ctx.versions)
                for i in arrived:
                    _check_versions(ctx.stored[i], versions[i])
            function = ctx.functions[members[0]]
            if _needs_graph(grads[arrived[0]]):
                for i in arrived:
                    tensors = ctx.stored[i]
                    grad = grads[i].to(tensors[0].dtype)
                    results[i] = differentiate(function, needs[i], tensors, grad)
                continue
            stored = [ctx.stored[i] for i in members]
            made = function.gradients_all(
                [
                    torch.zeros_like(ctx.stored[i][0], dtype=ctx.dtypes[i])
                    if grads[i] is None
                    else grads[i]
                    for i in members
                ],
                [any(column) for column in zip(*[needs[i] for i in members])],
                kept,
                stored,
            )
            for i, gradients in zip(members, made):
                if grads[i] is not None:
                    results[i] = gradients
        return None, None, None, *chain.from_iterable(results)


def _families(
    functions: Sequence[WeightFunction], stored: Sequence[Stored],
    dtypes: Sequence[torch.dtype | None],
) -> list[list[int]]:  # fmt: skip
    """Return which layers one call of :meth:`WeightFunction.evaluate_all` can answer."""
    families: dict[Any, list[int]] = {}
    for i, tensors in enumerate(stored):
        weight = tensors[0]
        key = functions[i], dtypes[i], weight.dtype, weight.device, *map(type, tensors)
        families.setdefault(key, []).append(i)
    return [*families.values()]


def _by_layer(stored: Sequence[Stored], flat: Sequence[Any]) -> list[Sequence[Any]]:
    ends = accumulate(map(len, stored))
    return [flat[end - len(tensors) : end] for tensors, end in zip(stored, ends)]


def _needs_graph(grad: Tensor) -> bool:
    """Whether the gradient must be differentiable, or comes as a batch or through a transform."""
    return torch.is_grad_enabled() or transforms_active() or is_batched(grad)


def differentiate(
    function: Callable[..., Tensor], needs: Sequence[bool], tensors: Stored, grad: Tensor
) -> Gradients:
    """Vector-Jacobian product of ``function``, itself differentiable where gradients are on."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Fresh aliases: one tensor may depend on another, and only this function is differentiated.
        aliases = [
            t
            if t is None or not need
            else t.view_as(t)
            if create_graph
            else t.detach().requires_grad_()
            for t, need in zip(tensors, needs)
        ]
        out = function(*aliases)
        wanted = [t for t, need in zip(aliases, needs) if t is not None and need]
        grads = iter(torch.autograd.grad(out, wanted, grad, create_graph=create_graph))
    return tuple(next(grads) if need else None for need in needs)


def closed_form_applies(*tensors: Tensor | None) -> bool:
    """Whether kernels may be called by hand: plain tensors that hold data, nothing tracing."""
    if is_tracing() or transforms_active():
        return False
    for tensor in tensors:
        if tensor is None:
            continue
        cls = type(tensor)
        if cls is not nn.Parameter and cls is not Tensor and not issubclass(cls, nn.Parameter):
            return False
        if tensor.is_meta or tensor.numel() == 0:
            return False
    return True
