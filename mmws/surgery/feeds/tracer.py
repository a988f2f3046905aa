"""Records what a model does with the outputs of its convolutions, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks_of_all
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary

from mmws.surgery.libraries import is_linear, mmcv_deformable

from . import scale_rules
from .graph import INVARIANT, Graph, Step
from .probe import probe
from .scale_rules import CLASH, Degree, Rule, alike, invariant
from .storages import StorageTable, storage_key

# Of their input only shape, dtype and device matter.
_METADATA = frozenset(
    {
        *('empty_like', 'full_like', 'ones_like', 'rand_like', 'randn_like', 'zeros_like'),
        *('new_empty', 'new_empty_strided', 'new_full', 'new_ones', 'new_zeros'),
        *('size', 'sym_size'),
    }
)


Method = TypeVar('Method', bound=Callable[..., Any])


def _own(method: Method) -> Method:
    """Let the tracer remember an error of ``method``, which runs while a model runs.

    A model may raise anything, and may catch anything: an error of the tracer must neither pass
    for the model's nor get lost.
    """

    @wraps(method)
    def remembering(self: Tracer, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # any error of these methods is a defect
            self._own_error = self._own_error or error
            raise

    return remembering  # type: ignore[return-value]


class Tracer(TorchDispatchMode):
    """Records the runs of a model as a :class:`Graph`.

    Calls of the layers in ``convs`` and ``norms`` are single steps. Everything else is recorded
    operation by operation.

    Args:
        model: The model.
        convs: Layers that can be converted.
        norms: Normalizations that are replaced, or whose training form normalizes.

    Attributes:
        graph: What was recorded.
        reached: The layers of ``convs`` that ran.
        weight_used_alone: Those whose weight the model reads for a computation of its own, as
            MMDetection's TOOD does: no layer can stand between the two. Also those of ``norms``
            whose parameters or statistics it reads so, as for ``F.batch_norm``.
        odd_offsets: The deformable convolutions of MMCV that were given more offsets than they
            have outputs, as in MMDetection's DyHead: torchvision's operator refuses that.
        positions: For each of ``norms``, the smallest number of positions of a channel that it
            was given.
        fixed_statistics: Modules other than Batch Normalization that called ``F.batch_norm`` with
            fixed statistics.
        functions: Operations of convolution that were called with a parameter and without a
            layer, as name of the module -> name of the operation.
    """

    def __init__(self, model: nn.Module, convs: set[nn.Module], norms: set[nn.Module]) -> None:
        super().__init__()
        self.graph = Graph()
        self.reached: set[nn.Module] = set()
        self.weight_used_alone: set[nn.Module] = set()
        self.odd_offsets: set[nn.Module] = set()
        self.positions: dict[nn.Module, int] = {}
        self.fixed_statistics: set[nn.Module] = set()
        self.functions: dict[str, str] = {}
        self._convs, self._norms = convs, norms
        self._names = {module: name for name, module in model.named_modules()}
        self._owners = WeakTensorKeyDictionary()  # weight -> the layers of convs that hold it
        for conv in convs:
            self._owners.setdefault(conv.weight, []).append(conv)
        for norm in norms:  # and all tensors of norms
            for tensor in (*norm.parameters(), *norm.buffers()):
                self._owners.setdefault(tensor, []).append(norm)
        self._parameters = {id(parameter) for parameter in model.parameters()}
        self._storages = StorageTable()
        self._degrees: list[Degree] = [0.0]  # of each value, if every layer of convs is converted
        self._running: list[nn.Module] = []
        self._single: nn.Module | None = None  # the layer that is being recorded as one step
        self._inputs: tuple[int, ...] = ()  # of that layer
        self._handles: list[Any] = []
        self._own_error: Exception | None = None  # which arose in a method marked by _own

    # ---- Runs

    def __enter__(self) -> Tracer:
        self._handles = [
            hooks_of_all.register_module_forward_pre_hook(self._enter_module),
            hooks_of_all.register_module_forward_hook(self._leave_module),
        ]
        for layer in self._convs | self._norms:  # after hooks of others, which change inputs
            self._handles.append(
                layer.register_forward_pre_hook(self._enter_layer, with_kwargs=True)
            )
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        for handle in self._handles:
            handle.remove()

    def run(self, call: Callable[[], Any]) -> str | None:
        """Run the model; return in one line why it stopped, ``None`` if it went through."""
        self._running, self._single = [], None
        self.fixed_statistics = set()
        try:
            output = call()
        except Exception as error:  # models raise anything; a run that ends early has told much
            if self._own_error is None:
                return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
        if self._own_error is not None:
            raise self._own_error
        values = tuple(self._value(tensor) for tensor in _tensors(output))
        for value in dict.fromkeys(values):
            if value != INVARIANT:
                self.graph.steps.append(Step("the model's output", invariant, (value,)))
        return None

    # ---- Layers

    @_own
    def _enter_module(self, module: nn.Module, args: Any) -> None:
        self._running.append(module)

    @_own
    def _enter_layer(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        if self._single is None:
            self._single = layer
            self._inputs = tuple(self._value(tensor) for tensor in _tensors((args, kwargs)))
            if layer in self._norms:
                self._count_positions(layer, _tensors((args, kwargs)))

    @_own
    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        while self._running and self._running.pop() is not module:
            pass  # what an exception that the model caught has left behind
        if module is not self._single:
            return
        self._single = None
        outputs = _tensors(output)
        if module in self._convs:
            self._leave_convolution(module, args, outputs)
        else:
            what = type(module).__name__
            step = self._step(what, scale_rules.normalized_by_layer, self._inputs, norm=module)
            self._record(step, outputs)

    def _leave_convolution(self, conv: nn.Module, args: Any, outputs: list[Tensor]) -> None:
        self.reached.add(conv)
        given_offsets = isinstance(conv, mmcv_deformable()) and len(args) > 1 and bool(outputs)
        if given_offsets and args[1].shape[2:] != outputs[0].shape[2:]:
            self.odd_offsets.add(conv)
        linear = isinstance(conv, nn.modules.conv._ConvNd) or is_linear(conv)
        hands_on = linear and conv.bias is None
        rule = scale_rules.carried if hands_on else invariant
        step = self._step(type(conv).__name__, rule, self._inputs, conv=conv)
        self._record(step, outputs)

    def _count_positions(self, norm: nn.Module, tensors: list[Tensor]) -> None:
        if tensors and tensors[0].dim() >= 2 and tensors[0].numel():
            shape = tensors[0].shape
            positions = tensors[0].numel() // (shape[0] * shape[1])
            self.positions[norm] = min(positions, self.positions.get(norm, positions))

    # ---- Operations

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        name = func._schema.name.rpartition('::')[2].rstrip('_')
        if name not in _METADATA:
            self._note_parameters(name, _tensors((args, kwargs)))
        if self._single is None:
            self._operation(func, name, args, kwargs, output)
        return output

    @_own
    def _note_parameters(self, name: str, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            owners = self._owners.get(tensor, ())
            if not any(owner in self._running for owner in owners):
                self.weight_used_alone.update(owners)
            if id(tensor) not in self._parameters:
                continue
            if self._single is None and name in scale_rules.CONVOLUTIONS and tensor.dim() > 2:
                self.functions.setdefault(self._place(), f'aten::{name}')

    @_own
    def _operation(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        by_name, written = _bind(func, args, kwargs)
        outputs = _tensors(output)
        if not written and _are_views(outputs, _tensors((args, kwargs))):
            return  # they have the value of their storage
        reading = scale_rules.read(name, by_name)
        tensors = scale_rules.tensors_in(by_name.values()) if reading is None else reading.tensors
        inputs = tuple(self._value(tensor) for tensor in tensors)
        known, rule = reading is not None, invariant if reading is None else reading.rule
        if scale_rules.is_batch_norm_op(name):
            rule, inputs = self._batch_norm(func, by_name, inputs)
        elif reading is None and any(self._degrees[value] for value in inputs):
            rule = self._probe(func, args, kwargs, output, tensors, bool(written))
        if not any(inputs) and not written and rule is not scale_rules.zeros:
            for tensor in outputs:
                self._storages.set(tensor, INVARIANT)
            return
        step = self._step(f'{func._schema.name.rstrip("_")}', rule, inputs, known=known)
        self._record(step, outputs, written)

    def _batch_norm(
        self, func: Any, by_name: dict[str, Any], inputs: tuple[int, ...]
    ) -> tuple[Rule, tuple[int, ...]]:
        """Return rule and inputs of a batch normalization that is called as a function."""
        module = self._running[-1] if self._running else None
        batch = scale_rules.uses_batch_statistics(func, by_name)
        if batch or isinstance(module, _NormBase):  # which normalizes in training
            return scale_rules.normalized, inputs
        if module is not None:
            self.fixed_statistics.add(module)
        return invariant, inputs

    def _probe(
        self, func: Any, args: Any, kwargs: Any, output: Any, tensors: list[Tensor], written: bool
    ) -> Rule:
        random = torch.Tag.nondeterministic_seeded in func.tags
        if written or random or not _tensors(output):
            return invariant
        degrees = {id(tensor): self._degrees[self._value(tensor)] for tensor in tensors}
        return probe(func, args, kwargs, output, degrees)

    # ---- Values

    def _place(self) -> str:
        return self._names.get(self._running[-1], '') if self._running else ''

    def _step(
        self,
        what: str,
        rule: Rule,
        inputs: tuple[int, ...],
        conv: nn.Module | None = None,
        norm: nn.Module | None = None,
        known: bool = True,
    ) -> Step:
        return Step(what, rule, inputs, (), conv, norm, self._place(), known)

    def _value(self, tensor: Tensor) -> int:
        return self._storages.get(tensor, INVARIANT)

    def _record(self, step: Step, outputs: list[Tensor], written: Sequence[Tensor] = ()) -> None:
        """Add a step that makes ``outputs`` or, of its inputs, overwrites ``written``."""
        result: Any = step.rule([self._degrees[value] for value in step.inputs])
        result = 0.0 if result == CLASH else result
        if step.conv is not None:
            result = (result or 0.0) + 1.0
        targets = written or outputs
        degrees = result if isinstance(result, tuple) else [result] * len(targets)
        made, merged = [], []
        for tensor, degree in zip(targets, degrees):
            if not _has_scale(tensor):
                made.append(self._new_value(0.0))
                self._storages.set(tensor, INVARIANT)
                continue
            value = self._new_value(degree)
            made.append(value)
            if written and not _is_whole(tensor):
                # The rest of the storage keeps its value, so that both must have one degree.
                before = self._value(tensor)
                rest = self._degrees[before]
                value = self._new_value(degree if rest is None else rest)
                merged.append(
                    Step(step.what, alike, (before, made[-1]), (value,), place=step.place)
                )
            self._storages.set(tensor, value)
        self.graph.steps += [replace(step, outputs=tuple(made)), *merged]

    def _new_value(self, degree: Degree) -> int:
        self._degrees.append(degree)
        return self.graph.new_value()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def _has_scale(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _bind(
    func: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[dict[str, Any], list[Tensor]]:
    """Return the arguments of an operation by name, without ``out``, and those it writes to."""
    by_name: dict[str, Any] = {}
    written: list[Tensor] = []
    for i, argument in enumerate(func._schema.arguments):
        if i < len(args) and not argument.kwarg_only:
            value = args[i]
        elif argument.name in kwargs:
            value = kwargs[argument.name]
        else:
            value = argument.default_value if argument.has_default_value() else None
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        if is_written:
            written += _tensors([value])
        if not (is_written and argument.is_out):
            by_name[argument.name] = value
    return by_name, written


def _are_views(outputs: list[Tensor], inputs: list[Tensor]) -> bool:
    known = {storage_key(tensor) for tensor in inputs}
    return bool(outputs) and all(storage_key(tensor) in known for tensor in outputs)


def _is_whole(tensor: Tensor) -> bool:
    """Return whether a tensor covers its storage."""
    try:
        return tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a storage
        return True
