"""An independent check of a conversion: does the scale of a converted layer matter to anything?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_leaves, tree_map

from mmws.layers import WeightFunctionMixin

from .copying import copied
from .feeds.inputs import call_with, own_calls
from .feeds.undisturbed import undisturbed

# Small against any variance in float64, and enough for a group of equal values.
_EPS = 1e-14
_EPS_OF_FLOAT32 = 1e-9
# What models raise that take other inputs or no float64.
_ERRORS_OF_A_RUN = (
    RuntimeError, ValueError, TypeError, IndexError, KeyError, AssertionError, NotImplementedError,
)  # fmt: skip


@dataclass(frozen=True)
class ConversionCheck:
    """What :func:`check_conversion` found.

    Attributes:
        difference: Largest difference of an output, relative to its largest magnitude.
        tolerance: What counts as none.
        layers: Number of layers whose outputs were multiplied.
        compared: Number of output elements that were compared.
        culprits: Where the check fails, the layers of which each alone changes an output, with
            the difference, the largest first. Summands of one sum are among them, since they have
            to change together.
    """

    difference: float
    tolerance: float
    layers: int
    compared: int
    culprits: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether no output depends on the scale of the converted layers."""
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
        return '\n'.join([text, *lines])


def check_conversion(
    model: nn.Module, inputs: Any = None, *, factor: float = 3.0, tolerance: float = 1e-2
) -> ConversionCheck:
    """Multiply the outputs of every converted layer, and compare what the model returns.

    Weight Standardization fixes the scale of every filter. It takes nothing from a model if a
    normalization behind each converted layer takes the scale away again, so that no output
    changes when the outputs of all converted layers are multiplied by one factor. This says
    nothing about how the conversion found its layers, and so is an independent check of it.

    A copy of the model runs in evaluation, in float64 where it can, with eps of all norms near 0.
    Parameters that are constant, such as gains of 0 and offsets, get random values, since they
    would hide what is behind them. Batch Normalization that is left uses the statistics of the
    batch, as in training.

    Args:
        model: A converted model. It stays as it is.
        inputs: As for :func:`mmws.convert`.
        factor: What outputs are multiplied by.
        tolerance: Largest relative difference that counts as none.

    Returns:
        The result, which is true if the check holds.

    Raises:
        ValueError: if the model has no converted layers, or cannot be run.
    """
    names = _converted_layers(model)
    if not names:
        raise ValueError('the model has no layer with a weight function: convert it first')
    model = copied(model)
    with torch.no_grad():
        _fill_constants(model)
    errors = []
    for dtype in (torch.float64, None):
        twin = copied(model) if dtype is not None else model
        if dtype is not None:
            nn.Module.to(twin, dtype)  # distillation models of MMDetection know devices alone
        layers = {name: twin.get_submodule(name) for name in names}
        for module in twin.modules():
            has_eps = isinstance(getattr(module, 'eps', None), float)
            if has_eps and not isinstance(module, WeightFunctionMixin):
                vars(module)['eps'] = _EPS if dtype is not None else _EPS_OF_FLOAT32
        for call in _calls(twin, inputs, dtype):
            try:
                return _check(twin, call, layers, factor, tolerance)
            except _ERRORS_OF_A_RUN as error:
                errors.append(f'{type(error).__name__}: {" ".join(str(error).split())}'[:200])
    raise ValueError(f'the model cannot be run: {errors[-1] if errors else "pass inputs"}')


def _converted_layers(model: nn.Module) -> list[str]:
    report = getattr(model, 'conversion_report', None)
    if report is not None:
        return [change.name for change in report.convs]
    return [name for name, m in model.named_modules() if isinstance(m, WeightFunctionMixin)]


def _fill_constants(model: nn.Module) -> None:
    """Give parameters that are constant random values of about their size, at least 0.1."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        flat = parameter.detach().flatten()
        if not parameter.is_floating_point() or not len(flat) or bool((flat != flat[0]).any()):
            continue
        noise = torch.rand(parameter.shape, generator=generator).to(parameter) + 0.5
        parameter.copy_(noise * flat[0].abs().clamp(min=0.1))


def _calls(model: nn.Module, inputs: Any, dtype: torch.dtype | None) -> Iterable[Callable[[], Any]]:
    if inputs is None:
        return own_calls(model)

    def cast(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if floating and dtype is not None else value

    cast_inputs = tree_map(cast, inputs)
    return [lambda: call_with(model, cast_inputs)]


def _check(
    model: nn.Module,
    call: Callable[[], Any],
    layers: dict[str, nn.Module],
    factor: float,
    tolerance: float,
) -> ConversionCheck:
    with undisturbed(model):
        for norm in model.modules():
            if isinstance(norm, _NormBase):
                norm.training = norm.track_running_stats
        before = _outputs(call)
        after = _outputs(call, layers.values(), factor)
        difference = _difference(after, before)
        culprits = {}
        if not difference <= tolerance:
            for name, layer in layers.items():
                alone = _difference(_outputs(call, [layer], factor), before)
                if not alone <= tolerance:
                    culprits[name] = alone
    culprits = dict(sorted(culprits.items(), key=lambda item: -item[1]))
    compared = sum(tensor.numel() for tensor in before)
    return ConversionCheck(difference, tolerance, len(layers), compared, culprits)


def _outputs(
    call: Callable[[], Any], layers: Iterable[nn.Module] = (), factor: float = 1.0
) -> list[Tensor]:
    """Return the tensors that a run returns, with the outputs of ``layers`` multiplied."""
    handles = [
        layer.register_forward_hook(lambda module, args, output: output * factor, prepend=True)
        for layer in layers
    ]
    torch.manual_seed(0)
    try:
        outputs = call()
    finally:
        for handle in handles:
            handle.remove()
    tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    return [tensor.detach().double() for tensor in tensors if not tensor.is_complex()]


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
