"""An independent check of a conversion: does the scale of a converted layer matter to anything?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_leaves, tree_map

from mmws.layers import WeightFunctionMixin
from mmws.surgery.libraries import is_normalization

from .copying import copied
from .feeds.inputs import call_with, own_calls
from .feeds.undisturbed import undisturbed

# Small against any variance in float64, and enough for a group of equal values.
_EPS = 1e-14
_EPS_OF_FLOAT32 = 1e-9
_SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class ConversionCheck:
    """What :func:`check_conversion` found.

    Attributes:
        difference: Largest difference of an output, relative to its largest magnitude.
        tolerance: What counts as none.
        layers: Number of converted layers that were checked.
        compared: Number of finite output elements that were compared.
        culprits: Where the check fails, the layers of which each alone changes an output, with
            the difference, the largest first. Summands of one sum are among them, since they have
            to change together.
        unchecked: The converted layers of which the check says nothing. No run reached them, or
            only the run of a part of the model whose output has their scale: a norm behind the
            part may take that away, which a run of the part alone does not show.
    """

    difference: float
    tolerance: float
    layers: int
    compared: int
    culprits: dict[str, float]
    unchecked: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether no output depends on the scale of the checked layers."""
        return self.difference <= self.tolerance

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        verdict = 'holds' if self.holds else 'does NOT hold'
        text = (
            f'the conversion {verdict}: the scale of {self.layers} layers changes '
            f'{self.compared} outputs by {self.difference:.1e} (tolerance {self.tolerance:.0e})'
        )
        lines = [f'  {name}: {difference:.1e}' for name, difference in self.culprits.items()]
        if self.unchecked:
            names = ', '.join(self.unchecked[:3]) + (', ...' if len(self.unchecked) > 3 else '')
            lines.append(f'  not checked: {len(self.unchecked)} layers ({names})')
        return '\n'.join([text, *lines])


def check_conversion(
    model: nn.Module, inputs: Any = None, *, factor: float = 4.0, tolerance: float = 1e-2
) -> ConversionCheck:
    """Multiply the outputs of every converted layer, and compare what the model returns.

    Weight Standardization fixes the scale of every filter. It takes nothing from a model if a
    normalization behind each converted layer takes the scale away again, so that no output
    changes when the outputs of all converted layers are multiplied by one factor. This says
    nothing about how the conversion found its layers, and so is an independent check of it.

    A copy of the model runs in evaluation, in float64 where it can, with eps of all norms near 0.
    Parameters that are constant, such as gains of 0 and offsets, get random values, since they
    would hide what is behind them. Batch Normalization that is left uses the statistics of the
    batch, as in training. Without ``inputs``, parts run by themselves whose layers a run of the
    whole model does not reach: heads that are there for the training, or all parts of a model that
    takes other inputs than images. Where an output changes, another run with eps of 0 decides. With
    a power of two as factor, such a run rounds as the run before it, so a choice between equal
    values, as top-k makes it, stays the same. Detectors of torchvision keep boxes of any score.

    Args:
        model: A converted model. It stays as it is. The layers of all its conversions are checked;
            without any, all that have a weight function.
        inputs: As for :func:`mmws.convert`.
        factor: What outputs are multiplied by: a power of two.
        tolerance: Largest relative difference that counts as none.

    Returns:
        The result, which is true if the check holds for the layers that were checked; see
        :attr:`ConversionCheck.unchecked` for the others.

    Raises:
        ValueError: if the model has no converted layers, or cannot be run, or no run reaches one,
            or ``factor`` is no power of two, or 1.
    """
    if factor == 1 or math.frexp(factor)[0] != 0.5:
        raise ValueError(f'factor must be a power of two other than 1, got {factor!r}')
    names = _converted_layers(model)
    if not names:
        raise ValueError('the model has no layer with a weight function: convert it first')
    model = copied(model)
    with torch.no_grad():
        _fill_constants(model)
    exact = copied(model)
    nn.Module.to(exact, torch.float64)  # distillation models of MMDetection know devices alone
    for twin, eps in ((exact, _EPS), (model, _EPS_OF_FLOAT32)):
        for module in twin.modules():
            has_eps = isinstance(getattr(module, 'eps', None), float)
            if has_eps and not isinstance(module, WeightFunctionMixin):
                vars(module)['eps'] = eps
            if isinstance(getattr(module, 'score_thresh', None), float):
                vars(module)['score_thresh'] = 0.0  # an untrained detector returns no box else
    runs = _Runs([(exact, torch.float64), (model, None)], names, factor, tolerance)
    runs.check('', inputs)
    if inputs is None:
        runs.check_parts(model)
    return runs.result()


def _converted_layers(model: nn.Module) -> list[str]:
    modules = dict(model.named_modules(remove_duplicate=False))
    report = getattr(model, 'conversion_report', None)
    if report is not None:
        # A head that was for the training alone may be gone.
        changes = dict.fromkeys(change.name for change in (*report.earlier, *report.convs))
        names = [name for name in changes if name in modules]
        if names:
            return names
    return [name for name, m in model.named_modules() if isinstance(m, WeightFunctionMixin)]


def _fill_constants(model: nn.Module) -> None:
    """Give parameters that are constant random values of about their size, at least 0.1."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        flat = parameter.detach().flatten()
        if not parameter.is_floating_point() or not len(flat) or bool((flat != flat[0]).any()):
            continue
        noise = torch.rand(parameter.shape, generator=generator, device='cpu').to(parameter) + 0.5
        parameter.copy_(noise * flat[0].abs().clamp(min=0.1))


def _calls(
    model: nn.Module, inputs: Any, dtype: torch.dtype | None, part: bool
) -> Iterable[Callable[[], Any]]:
    if inputs is None:
        return own_calls(model, part)

    def cast(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if floating and dtype is not None else value

    cast_inputs = tree_map(cast, inputs)
    return [lambda: call_with(model, cast_inputs)]


class _Runs:
    """Runs of a model and of parts of it, and what they found."""

    def __init__(
        self,
        twins: list[tuple[nn.Module, torch.dtype | None]],
        names: list[str],
        factor: float,
        tolerance: float,
    ) -> None:
        self.twins, self.factor, self.tolerance = twins, factor, tolerance
        self.unchecked = dict.fromkeys(names)
        self.difference, self.compared = 0.0, 0
        self.culprits: dict[str, float] = {}
        self.layers = len(names)
        self.error: str | None = 'pass inputs'

    def check(self, place: str, inputs: Any) -> None:
        """Check the layers that a run of the submodule ``place`` reaches, if it can be run.

        Args:
            place: A part; an empty string for the whole model.
            inputs: As for :func:`check_conversion`.
        """
        for twin, dtype in self.twins:
            module = twin.get_submodule(place)
            layers = {name: twin.get_submodule(name) for name in self.unchecked}
            calls = iter(_calls(module, inputs, dtype, part=bool(place)))
            while True:
                try:
                    call = next(calls, None)
                    if call is None:
                        break
                    self._check_call(twin, call, layers, part=bool(place))
                except Exception as error:  # models raise anything for inputs they don't take
                    if not place:
                        text = ' '.join(str(error).split())
                        self.error = f'{type(error).__name__}: {text}'[:200]
                else:
                    if not place:
                        self.error = None
                    return

    def check_parts(self, module: nn.Module, place: str = '') -> None:
        """Check the layers that are left by runs of the parts that they are in."""
        for name, child in module.named_children():
            path = f'{place}.{name}' if place else name
            inside = [n for n in self.unchecked if n.startswith(f'{path}.')]
            if not inside or not any(is_normalization(m) for m in child.modules()):
                continue
            if not isinstance(child, (nn.ModuleList, nn.ModuleDict)):
                self.check(path, None)
            self.check_parts(child, path)

    def result(self) -> ConversionCheck:
        checked = self.layers - len(self.unchecked)
        if not checked:
            if self.error is None:
                raise ValueError('no run reaches a converted layer: pass inputs that do')
            raise ValueError(f'the model cannot be run: {self.error}')
        culprits = dict(sorted(self.culprits.items(), key=lambda item: -item[1]))
        return ConversionCheck(
            self.difference, self.tolerance, checked, self.compared, culprits, (*self.unchecked,)
        )

    def _check_call(
        self, twin: nn.Module, call: Callable[[], Any], layers: dict[str, nn.Module], part: bool
    ) -> None:
        with undisturbed(twin):
            for norm in twin.modules():
                if isinstance(norm, _NormBase):
                    norm.training = norm.track_running_stats
            self._compare_all(twin, lambda: _seeded(twin, call), layers, part)

    def _compare_all(
        self, twin: nn.Module, call: Callable[[], Any], layers: dict[str, nn.Module], part: bool
    ) -> None:
        before, _ = _outputs(call)
        if not any(bool(tensor.isfinite().any()) for tensor in before):
            raise ValueError('returns no finite floating-point numbers')
        difference, reached = self._compare(twin, call, layers, before)
        if not difference <= self.tolerance:
            changes = {
                name: self._compare(twin, call, {name: layers[name]}, before)[0] for name in reached
            }
            culprits = {name: c for name, c in changes.items() if not c <= self.tolerance}
            if part:
                innocent = {name: layers[name] for name in reached - culprits.keys()}
                difference, reached = self._compare(twin, call, innocent, before)
                if not difference <= self.tolerance:
                    return
            else:
                self.culprits.update(culprits)
        self.difference = max(self.difference, difference)
        self.compared += sum(tensor.numel() for tensor in before) - _not_finite(before)
        for name in reached:
            del self.unchecked[name]

    def _compare(
        self,
        twin: nn.Module,
        call: Callable[[], Any],
        layers: Mapping[str, nn.Module],
        before: list[Tensor],
    ) -> tuple[float, set[str]]:
        """Return how much outputs change with the scale of ``layers``, and which of these ran."""
        after, reached = _outputs(call, layers, self.factor)
        difference = _difference(after, before)
        if difference <= self.tolerance:
            return difference, reached
        with _without_eps(twin):
            bare, _ = _outputs(call)
            after, _ = _outputs(call, layers, self.factor)
        if _not_finite(bare) > _not_finite(before):  # a variance of 0: nothing is left to compare
            return difference, reached
        return min(difference, _difference(after, bare)), reached


@contextmanager
def _without_eps(model: nn.Module) -> Iterator[None]:
    """Set eps of PyTorch's norms to what changes no variance but 0."""
    norms = [m for m in model.modules() if isinstance(m, (_NormBase, nn.GroupNorm, nn.LayerNorm))]
    before = [norm.eps for norm in norms]
    try:
        for norm in norms:
            norm.eps = _SMALLEST
        yield
    finally:
        for norm, eps in zip(norms, before):
            norm.eps = eps


def _outputs(
    call: Callable[[], Any], layers: Mapping[str, nn.Module] = {}, factor: float = 1.0
) -> tuple[list[Tensor], set[str]]:
    """Return the tensors of a run with ``layers`` multiplied, and the names of those that ran."""
    reached = set()

    def multiply(name: str, output: Tensor) -> Tensor:
        reached.add(name)
        return output * factor

    handles = [
        layer.register_forward_hook(
            lambda module, args, output, name=name: multiply(name, output), prepend=True
        )
        for name, layer in layers.items()
    ]
    try:
        outputs = call()
    finally:
        for handle in handles:
            handle.remove()
    tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    # Whole numbers, such as the nearest entry of a codebook, may turn on rounding.
    floating = [tensor.detach().double() for tensor in tensors if tensor.is_floating_point()]
    return floating, reached


def _seeded(model: nn.Module, call: Callable[[], Any]) -> Any:
    """Run with the same random numbers every time."""
    # Not `torch.manual_seed`, which also seeds GPUs whose states `undisturbed` does not keep.
    torch.default_generator.manual_seed(0)
    for index in {p.device.index for p in model.parameters() if p.device.type == 'cuda'}:
        torch.cuda.default_generators[index].manual_seed(0)
    return call()


def _not_finite(tensors: list[Tensor]) -> int:
    return sum(int((~tensor.isfinite()).sum()) for tensor in tensors)


def _difference(after: list[Tensor], before: list[Tensor]) -> float:
    if [tensor.shape for tensor in after] != [tensor.shape for tensor in before]:
        return float('inf')
    largest = 0.0
    for a, b in zip(after, before):
        if a.numel():
            size = b.abs().nan_to_num(0, 0, 0).max().clamp(min=1e-6)
            change = ((a - b).abs().nan_to_num(0, 0, 0).max() / size).item()
            same = torch.equal(a.isfinite(), b.isfinite())
            largest = max(largest, change if same else float('inf'))
    return largest
