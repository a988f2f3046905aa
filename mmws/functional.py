r"""The maths of mmws: from the weight that a layer stores to the weight that it computes with.

A :class:`WeightFunction` is one such map. Two are defined here, :class:`Standardize` (Weight
Standardization, its BiT and its scaled form) and :class:`Normalize` (Weight Normalization);
:func:`standardize_weight` and :func:`normalize_weight` call them. To add one, subclass
:class:`WeightFunction` and write ``__call__`` in differentiable PyTorch: layers, training without
extra memory and cached inference then work. The other methods are there for speed.

Shapes used throughout: a filter is the part of a weight that makes one output channel. ``weight``
is :math:`(O, \ldots)`, ``O`` filters of ``n`` elements each; its *rows* are the same numbers as
:math:`(O, n)`. A *per-filter vector* has ``O`` elements. :class:`Transposed` brings the weight of
a transposed convolution, which is laid out otherwise, into this form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from mmws import kernels


class WeightFunction:
    """A differentiable map from the tensors that a layer stores to the weight it computes with.

    Only ``__call__`` must be defined. The three other methods are one evaluation with its gradient
    taken apart, so that nothing but per-filter vectors has to live from forward to backward. They
    run without a graph, on plain tensors; everything else (double backward, forward-mode AD,
    ``torch.func``, tracing and compiling) goes through ``__call__``.

    Subclasses are immutable and compare by value: a layer whose function changed must notice.
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

    def evaluate(
        self, weight: Tensor, *others: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Return what ``__call__`` returns, and the vectors that the next two methods need."""
        return self(weight, *others), ()

    def reevaluate(
        self, kept: Sequence[Tensor | None], weight: Tensor, *others: Tensor | None
    ) -> Tensor:
        """Return what ``__call__`` returns, from the vectors that :meth:`evaluate` returned.

        It is used at once: the next call may write to the same memory.
        """
        return self(weight, *others)

    def gradients(
        self,
        grad: Tensor,
        needs: Sequence[bool],
        kept: Sequence[Tensor | None],
        *stored: Tensor | None,
        again: bool = False,
    ) -> tuple[tuple[Tensor | None, ...], Tensor | None]:
        """Return the gradients with respect to the stored tensors, and the weight if asked for.

        Args:
            grad: Gradient with respect to what ``__call__`` returned.
            needs: For every stored tensor, whether its gradient is needed.
            kept: The vectors that :meth:`evaluate` returned.
            *stored: The arguments of ``__call__``.
            again: Also do what :meth:`reevaluate` does, while the stored tensors are at hand.

        Returns:
            The gradients, None where not needed, and what :meth:`reevaluate` returns, or None.
        """
        grads = _differentiate(self, needs, stored, grad)
        return grads, self.reevaluate(kept, *stored) if again else None


class Operation(Protocol):
    """What a layer does with its weight: a linear map of the weight, with a known gradient."""

    half_precision: ClassVar[bool]
    """Whether autocast lets it compute in half precision, rather than in float32."""

    separable: ClassVar[bool]
    """Whether parts of :meth:`backward` can be had at parts of its cost, and only the gradient of
    ``inputs[0]`` depends on the weight: for the others any of its shape and dtype will do."""

    def forward(self, weight: Tensor, *inputs: Tensor | None) -> Tensor:
        """Return the output of the layer."""

    def backward(
        self, grad: Tensor, needs: Sequence[bool], weight: Tensor, *inputs: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``weight`` and ``inputs``, where ``needs`` says."""


def apply(
    function: WeightFunction,
    stored: Sequence[Tensor | None],
    operation: Operation | None = None,
    inputs: Sequence[Tensor | None] = (),
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute ``operation.forward(function(*stored), *inputs)`` at the memory of the operation.

    What is kept for the backward pass is what the operation alone would keep, the stored weight
    in place of the weight it computes with, and a few per-filter vectors.

    Args:
        function: Makes the weight to compute with.
        stored: Its arguments.
        operation: What is done with that weight. Without one the weight itself is returned.
        inputs: Further arguments of the operation.
        dtype: Cast the weight to this dtype before the operation.

    Returns:
        The output of the operation, or the weight.
    """
    if stored[0].numel() and _closed_form_applies(*stored, *inputs):
        return _Apply.apply(function, operation, dtype, len(stored), *stored, *inputs)
    return _compose(function, operation, dtype, len(stored), *stored, *inputs)


def _compose(
    function: WeightFunction,
    operation: Operation | None,
    dtype: torch.dtype | None,
    num_stored: int,
    *tensors: Tensor | None,
) -> Tensor:
    weight = function(*tensors[:num_stored])
    if dtype is not None:
        weight = weight.to(dtype)
    return weight if operation is None else operation.forward(weight, *tensors[num_stored:])


class _Apply(torch.autograd.Function):
    """:func:`_compose` with the weight recomputed in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        function: WeightFunction,
        operation: Operation | None,
        dtype: torch.dtype | None,
        num_stored: int,
        *tensors: Tensor | None,
    ) -> Tensor:
        weight, kept = function.evaluate(*tensors[:num_stored])
        ctx.arguments = function, operation, dtype, num_stored
        ctx.num_tensors = len(tensors)
        ctx.save_for_backward(*tensors, *kept)
        if dtype is not None:
            weight = weight.to(dtype)
        return weight if operation is None else operation.forward(weight, *tensors[num_stored:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        function, operation, dtype, num_stored = ctx.arguments
        saved = ctx.saved_tensors  # read once: checkpointing makes its tensors anew
        tensors, kept = saved[: ctx.num_tensors], saved[ctx.num_tensors :]
        needs = ctx.needs_input_grad[4:]
        if torch.is_grad_enabled() or _transforms_active() or _is_batched(grad):
            # Whoever differentiates once more (create_graph=True) needs a graph of this pass, and
            # operators know nothing of batches of gradients.
            def compose(*tensors: Tensor | None) -> Tensor:
                return _compose(*ctx.arguments, *tensors)

            return (None,) * 4 + _differentiate(compose, needs, tensors, grad)

        stored, inputs = tensors[:num_stored], tensors[num_stored:]
        needs_stored, needs_inputs = needs[:num_stored], needs[num_stored:]
        if operation is None:
            grad_stored, _ = function.gradients(grad, needs_stored, kept, *stored)
            return (None,) * 4 + grad_stored
        if (
            any(needs_stored) and needs_inputs[0] and operation.separable
            and dtype is None and grad.is_contiguous()
        ):  # fmt: skip
            # The stored weight is read once, for its gradient and to make the weight again, at the
            # price of one weight more that lives meanwhile. Before, it stands in for the weight:
            # under autocast it lacks the dtype for that. And a gradient that the operation has to
            # copy first would be copied twice.
            grad_weight, _, *grad_others = operation.backward(
                grad, (True, False, *needs_inputs[1:]), stored[0], *inputs
            )
            grad_stored, weight = function.gradients(
                grad_weight, needs_stored, kept, *stored, again=True
            )
            del grad_weight
            nothing_else = (False,) * len(grad_others)
            grad_input = operation.backward(grad, (False, True, *nothing_else), weight, *inputs)[1]
            return (None,) * 4 + (*grad_stored, grad_input, *grad_others)
        weight = function.reevaluate(kept, *stored)
        if dtype is not None:
            weight = weight.to(dtype)
        grad_weight, *grad_inputs = operation.backward(
            grad, (any(needs_stored), *needs_inputs), weight, *inputs
        )
        del weight  # free it before the gradient of the stored weight is made
        grad_stored = (None,) * num_stored
        if grad_weight is not None:
            grad_stored, _ = function.gradients(grad_weight, needs_stored, kept, *stored)
        return (None,) * 4 + (*grad_stored, *grad_inputs)


def _differentiate(
    function: Any, needs: Sequence[bool], tensors: Sequence[Tensor | None], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Vector-Jacobian product of ``function``, itself differentiable where gradients are on."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Fresh aliases: one tensor may depend on another, and only this function is differentiated.
        aliases = [
            t if not need else t.view_as(t) if create_graph else t.detach().requires_grad_()
            for t, need in zip(tensors, needs)
        ]
        out = function(*aliases)
        wanted = [t for t, need in zip(aliases, needs) if need]
        grads = iter(torch.autograd.grad(out, wanted, grad, create_graph=create_graph))
    return tuple(next(grads) if need else None for need in needs)


# Not yet in PyTorch 2.1; bool() is False.
_is_compiling = getattr(torch.compiler, 'is_compiling', bool)


def is_tracing() -> bool:
    """Whether PyTorch records what runs now, in order to compile, export or trace it."""
    return _is_compiling() or torch._C._is_tracing()


_BATCHED = torch._C._dispatch_key_parse('Batched')


def _is_batched(grad: Tensor) -> bool:
    """Whether this is a batch of gradients for ``is_grads_batched=True``."""
    return torch._C._dispatch_keys(grad).has(_BATCHED)


def _transforms_active() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _closed_form_applies(*tensors: Tensor | None) -> bool:
    """Whether kernels may be called by hand: plain tensors that hold data, nothing tracing."""
    if is_tracing() or _transforms_active():
        return False
    for tensor in tensors:
        if tensor is None:
            continue
        cls = type(tensor)
        if tensor.is_meta or not (cls is Tensor or issubclass(cls, nn.Parameter)):
            return False
    return True


_EXACT = (torch.float32, torch.float64)


def _at_least_float32(tensor: Tensor) -> Tensor:
    # Not torch.promote_types, which is a call of its own for whoever traces or counts calls.
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _memory_order(weight: Tensor) -> list[int]:
    return sorted(range(1, weight.dim()), key=weight.stride, reverse=True)


def _rows(tensor: Tensor, like: Tensor) -> Tensor:
    """Return the filters contiguous, in float32 at least, their elements in the order of ``like``.

    A filter's statistics do not depend on the order of its elements; following the memory copies
    neither contiguous weights nor ``channels_last`` ones.
    """
    if tensor.is_contiguous() and tensor.dtype in _EXACT and like.is_contiguous():
        return tensor
    if not like.is_contiguous():
        tensor = tensor.permute(0, *_memory_order(like))
    return _at_least_float32(tensor).contiguous()


def _unrows(rows: Tensor, like: Tensor) -> Tensor:
    """Undo :func:`_rows`: the shape, layout and dtype of ``like``."""
    if rows.dtype != like.dtype:
        rows = rows.to(like.dtype)
    if like.is_contiguous():
        return rows
    order = [0, *_memory_order(like)]
    return rows.permute(sorted(range(like.dim()), key=order.__getitem__))


def _vector(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor.reshape(-1).to(rows.dtype).contiguous()


def _gradients(
    made: Sequence[Tensor],
    needs: Sequence[bool],
    stored: Sequence[Tensor | None],
    again: bool,
) -> tuple[tuple[Tensor | None, ...], Tensor | None]:
    """Give the results of an operator, of which there are as many as were asked for, their form."""
    weight, *vectors = stored
    made = list(made)
    weight_again = _unrows(made.pop(), weight) if again else None
    grads = [_unrows(made.pop(0), weight) if needs[0] else None]
    for need, vector in zip(needs[1:], vectors):
        grads.append(made.pop(0).to(vector.dtype).view(vector.shape) if need else None)
    return tuple(grads), weight_again


@dataclass(frozen=True)
class Standardize(WeightFunction):
    r"""Zero mean and unit variance for every filter.

    .. math:: \hat W_o = \gamma_o s\, \frac{W_o - \mu_o}{d_o} + \beta_o, \qquad
        d_o = \sigma_o + \epsilon \text{ or } \sqrt{\sigma_o^2 + \epsilon}

    Weight Standardization (`arXiv 1903.10520 <https://arxiv.org/abs/1903.10520>`_, eq. 4 to 6) has
    neither :math:`\gamma`, :math:`s` nor :math:`\beta`. The gradient, with :math:`g` that of
    :math:`\hat W_o`, :math:`c = W_o - \mu_o` and :math:`m` the divisor of the variance, is

    .. math:: \frac{\gamma_o s}{d_o}\left[g - \bar g - c\,\frac{\sum g\,c}{m\,q_o}\right], \qquad
        q_o = \sigma_o d_o \text{ or } d_o^2

    (the paper's eq. 7 to 9 with :math:`\epsilon` kept).

    A filter without variance, or of one element, becomes :math:`\beta_o`; its gradient is that of
    the limit in which the last term of the bracket is 0.

    Args:
        eps: :math:`\epsilon`.
        variance: ``'unbiased'`` for :math:`m = n - 1` or ``'biased'`` for :math:`m = n`.
        eps_inside: Add :math:`\epsilon` to the variance rather than to the standard deviation.
        scale: :math:`s`, one factor for all filters.

    Raises:
        ValueError: if ``eps`` is negative or ``variance`` another word.
    """

    eps: float = 1e-5
    variance: str = 'unbiased'
    eps_inside: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.variance not in ('unbiased', 'biased'):
            raise ValueError(f"variance must be 'unbiased' or 'biased', got {self.variance!r}")
        if self.eps < 0:
            raise ValueError(f'eps must not be negative, got {self.eps}')

    def __call__(
        self, weight: Tensor, gain: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        rows = _at_least_float32(weight.flatten(1))
        centred = rows - rows.mean(1, keepdim=True)
        variance = centred.square().sum(1, keepdim=True) / self._divisor(rows.shape[1])
        # The root has no derivative at 0; a filter without variance is divided by a constant.
        positive = variance > 0
        variance = torch.where(positive, variance, 1.0)
        if self.eps_inside:
            deviation, constant = (variance + self.eps).sqrt(), math.sqrt(self.eps)
        else:
            deviation, constant = variance.sqrt() + self.eps, self.eps
        constant = max(constant, math.sqrt(torch.finfo(rows.dtype).tiny))
        rows = centred / torch.where(positive, deviation, constant)
        if self.scale != 1.0:
            rows = rows * self.scale
        if gain is not None:
            rows = rows * _vector(gain, rows)[:, None]
        if shift is not None:
            rows = rows + _vector(shift, rows)[:, None]
        return rows.view(weight.shape).to(weight.dtype)

    def evaluate(
        self, weight: Tensor, gain: Tensor | None = None, shift: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        tensors, options = self._arguments(weight, gain, shift)
        out, kept = kernels.standardize(*tensors, *options)
        return _unrows(out, weight), tuple(kept)

    def reevaluate(
        self,
        kept: Sequence[Tensor | None],
        weight: Tensor,
        gain: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        tensors, options = self._arguments(weight, gain, shift)
        return _unrows(kernels.restandardize(*tensors, kept, *options), weight)

    def gradients(
        self,
        grad: Tensor,
        needs: Sequence[bool],
        kept: Sequence[Tensor | None],
        weight: Tensor,
        gain: Tensor | None = None,
        shift: Tensor | None = None,
        again: bool = False,
    ) -> tuple[tuple[Tensor | None, ...], Tensor | None]:
        tensors, options = self._arguments(weight, gain, shift)
        mask = [*needs, False, False][:3]
        made = kernels.standardize_backward(
            _rows(grad, weight), *tensors, kept, *options, [*mask, again]
        )
        return _gradients(made, needs, (weight, gain, shift), again)

    def _arguments(
        self, weight: Tensor, gain: Tensor | None, shift: Tensor | None
    ) -> tuple[tuple[Tensor | None, ...], tuple[float, bool, int, float]]:
        """Return the arguments of the operators, what is kept between the two."""
        rows = _rows(weight, weight)
        if gain is not None:
            gain = _vector(gain, rows)
        if shift is not None:
            shift = _vector(shift, rows)
        divisor = self._divisor(rows.numel() // rows.shape[0])
        return (rows, gain, shift), (self.eps, self.eps_inside, divisor, self.scale)

    def _divisor(self, n: int) -> int:
        # A single element has no unbiased variance; its deviation from the mean is 0 anyway.
        return max(n - 1, 1) if self.variance == 'unbiased' else n


@dataclass(frozen=True)
class Normalize(WeightFunction):
    r"""Length and direction of every filter apart: Weight Normalization.

    .. math:: W_o = g_o \frac{V_o}{\lVert V_o \rVert}

    (`arXiv 1602.07868 <https://arxiv.org/abs/1602.07868>`_, eq. 2; gradients eq. 3 and 4). A filter
    of zeros, which has no direction, stays one, with zero gradients.
    """

    def __call__(self, weight: Tensor, gain: Tensor) -> Tensor:
        rows = _at_least_float32(weight.flatten(1))
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        norm = torch.where(norm > 0, norm, math.inf)
        rows = rows * (_vector(gain, rows)[:, None] / norm)
        return rows.view(weight.shape).to(weight.dtype)

    @staticmethod
    def norms(weight: Tensor) -> Tensor:
        """Return the Euclidean norm of every filter, :math:`(O)`, in float32 at least."""
        return torch.linalg.vector_norm(_at_least_float32(weight.flatten(1)), dim=1)

    def evaluate(self, weight: Tensor, gain: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        rows = _rows(weight, weight)
        rows, kept = kernels.normalize(rows, _vector(gain, rows))
        return _unrows(rows, weight), tuple(kept)

    def reevaluate(self, kept: Sequence[Tensor | None], weight: Tensor, gain: Tensor) -> Tensor:
        rows = _rows(weight, weight)
        return _unrows(kernels.renormalize(rows, _vector(gain, rows), kept), weight)

    def gradients(
        self,
        grad: Tensor,
        needs: Sequence[bool],
        kept: Sequence[Tensor | None],
        weight: Tensor,
        gain: Tensor,
        again: bool = False,
    ) -> tuple[tuple[Tensor | None, ...], Tensor | None]:
        rows = _rows(weight, weight)
        made = kernels.normalize_backward(
            _rows(grad, weight), rows, _vector(gain, rows), kept, [*needs, again]
        )
        return _gradients(made, needs, (weight, gain), again)


@dataclass(frozen=True)
class Transposed(WeightFunction):
    r"""``function`` for the weight of a transposed convolution.

    That weight is :math:`(I, O / G, \ldots)` for ``I`` input channels, ``O`` output channels and
    ``G`` groups. The filter of an output channel runs over the input channels of its group, so it
    is not a row of the weight.

    Args:
        function: A function of weights :math:`(O, \ldots)`.
        groups: ``G``.
    """

    function: WeightFunction
    groups: int = 1

    def filters(self, weight: Tensor) -> Tensor:
        return self.function.filters(self._swap(weight))

    def _swap(self, weight: Tensor) -> Tensor:
        """:math:`(I, O / G, ...)` to :math:`(O, I / G, ...)` and back."""
        return weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)

    def __call__(self, weight: Tensor, *others: Tensor | None) -> Tensor:
        return self._swap(self.function(self._swap(weight), *others))

    def evaluate(
        self, weight: Tensor, *others: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        weight, kept = self.function.evaluate(self._swap(weight), *others)
        return self._swap(weight), kept

    def reevaluate(
        self, kept: Sequence[Tensor | None], weight: Tensor, *others: Tensor | None
    ) -> Tensor:
        return self._swap(self.function.reevaluate(kept, self._swap(weight), *others))

    def gradients(
        self,
        grad: Tensor,
        needs: Sequence[bool],
        kept: Sequence[Tensor | None],
        weight: Tensor,
        *others: Tensor | None,
        again: bool = False,
    ) -> tuple[tuple[Tensor | None, ...], Tensor | None]:
        (grad_weight, *grads), made = self.function.gradients(
            self._swap(grad), needs, kept, self._swap(weight), *others, again=again
        )
        grad_weight = None if grad_weight is None else self._swap(grad_weight)
        return (grad_weight, *grads), None if made is None else self._swap(made)


def _check(name: str, weight: Tensor) -> None:
    if weight.dim() < 2 or not weight.is_floating_point():
        raise ValueError(
            f'{name} needs a floating-point weight of shape (O, ...) with at least 2 dimensions, '
            f'got {weight.dtype} of shape {tuple(weight.shape)}'
        )


def standardize_weight(
    weight: Tensor,
    eps: float = 1e-5,
    gain: Tensor | None = None,
    variance: str = 'unbiased',
    eps_inside: bool = False,
) -> Tensor:
    r"""Give every filter zero mean and unit variance (Weight Standardization).

    .. math:: \hat W_o = \gamma_o \frac{W_o - \mu_o}{\sigma_o + \epsilon}

    The defaults are those of `arXiv 1903.10520 <https://arxiv.org/abs/1903.10520>`_ (eq. 4 to 6)
    and its authors' code. BiT (`arXiv 1912.11370 <https://arxiv.org/abs/1912.11370>`_) and timm
    take ``variance='biased', eps_inside=True``; scaled WS
    (`arXiv 2101.08692 <https://arxiv.org/abs/2101.08692>`_, eq. 2) is that with a learned ``gain``
    times :math:`1 / \sqrt{n}`. Computed in float32 at least; see :class:`Standardize` for the
    gradient.

    Args:
        weight: :math:`(O, \ldots)`, floating point; see :class:`Transposed` for the weight of a
            transposed convolution.
        eps: :math:`\epsilon`, not negative.
        gain: :math:`\gamma`, ``O`` elements in any shape, such as :math:`(O, 1, 1, 1)`.
        variance: ``'unbiased'`` or ``'biased'``, the sum of squares over ``n - 1`` or ``n``.
        eps_inside: Divide by :math:`\sqrt{\sigma^2 + \epsilon}` instead.

    Returns:
        A tensor of the shape and dtype of ``weight``.

    Raises:
        ValueError: if ``weight`` has fewer than 2 dimensions or is not floating point, if ``gain``
            has not ``O`` elements, if ``eps`` is negative, if ``variance`` is another word.
    """
    _check('standardize_weight', weight)
    if gain is not None and gain.numel() != weight.shape[0]:
        raise ValueError(
            f'gain needs one element for each of {weight.shape[0]} filters, got {gain.numel()}'
        )
    return apply(Standardize(eps, variance, eps_inside), (weight, gain))


def normalize_weight(v: Tensor, g: Tensor) -> Tensor:
    r"""Give every filter the length ``g`` and the direction of ``v`` (Weight Normalization).

    .. math:: W_o = g_o \frac{V_o}{\lVert V_o \rVert}

    `arXiv 1602.07868 <https://arxiv.org/abs/1602.07868>`_, eq. 2. Computed in float32 at least;
    see :class:`Normalize` for the gradients.

    Args:
        v: :math:`(O, \ldots)`, floating point.
        g: ``O`` elements in any shape, such as :math:`(O, 1, 1, 1)`.

    Returns:
        A tensor of the shape and dtype of ``v``.

    Raises:
        ValueError: if ``v`` has fewer than 2 dimensions or is not floating point, or if ``g`` has
            not ``O`` elements.
    """
    _check('normalize_weight', v)
    if g.numel() != v.shape[0]:
        raise ValueError(f'g needs one element for each of {v.shape[0]} filters, got {g.numel()}')
    return apply(Normalize(), (v, g))
