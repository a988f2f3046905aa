"""Layers with another weight function than the one that their weights were trained with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from mmws.compat import source_of
from mmws.layers import WeightFunctionMixin

from ..metadata import PLAIN, Parametrization, has_filters, norm_of, parametrization_of
from ..published import find_pretrained
from .load import Load, Mismatch
from .model import parent_of
from .origins import origin_of
from .text import count

# Pairs of (trained with, the model has) and the names of the layers.
_Differences = dict[tuple[Parametrization, Parametrization], list[str]]


def check_weight_functions(load: Load) -> Iterator[Mismatch]:
    """Find weights trained with one weight function in layers with another, or with none."""
    other_function: _Differences = {}
    other_arguments: _Differences = {}
    trained_plain: list[str] = []
    unknown: list[str] = []
    for layer, module in load.layers.items():
        if not has_filters(module) or f'{layer}.weight' not in load.weights:
            continue
        current = parametrization_of(module)
        trained = _trained_parametrization(load, layer)
        if current is None or trained == current:
            continue
        if trained is None:
            if _standardizes(current) and _is_read(load, layer):
                unknown.append(layer)
        elif trained == PLAIN:
            if not _takes_plain_weights(module, current):
                trained_plain.append(layer)
        elif _is_same_function(trained, current):
            # A parametrization that only the names of the parameters tell has no arguments.
            if trained.arguments:
                other_arguments.setdefault((trained, current), []).append(layer)
        else:
            other_function.setdefault((trained, current), []).append(layer)

    for (trained, current), layers in other_function.items():
        yield Mismatch(
            f'{load.name} was trained with {trained}, the model has {current} '
            f'({count(layers, "layer")}): it would convolve with other filters than those '
            f'trained, and its outputs are meaningless. {_remedy(current)}',
            is_error=True,
        )
    for (trained, current), layers in other_arguments.items():
        yield Mismatch(
            f'{load.name} was trained with {trained} of {_differing(trained, current)}, the model '
            f'has {_differing(current, trained)} ({count(layers, "layer")}): outputs differ a '
            'little. Set these in conv_cfg'
        )
    if trained_plain:
        yield _plain_weights(load, trained_plain)
    if unknown:
        yield Mismatch(
            f'{load.name} does not say whether it was trained with Weight Standardization, which '
            f'the model has ({count(unknown, "layer")}): if it was not, the detector may train to '
            f'a lower AP. {advise(load.layers, "WS")}, or keep plain weights exactly by affine WS, '
            "conv_cfg=dict(type='mmws.ConvAWS')"
        )


def _plain_weights(load: Load, layers: list[str]) -> Mismatch:
    """Return the mismatch of weights trained without WS in layers that standardize them."""
    batch_norms = [n for n, m in load.layers.items() if (norm_of(m) or {}).get('norm') == 'BN']
    if len(batch_norms) >= len(layers) / 2:
        return Mismatch(
            f'{load.name} was trained without Weight Standardization, which the model has together '
            f'with Batch Normalization ({count(layers, "layer")}): running statistics are those '
            'of other filters. Keep these weights exactly by affine WS, '
            "conv_cfg=dict(type='mmws.ConvAWS'), or leave conv_cfg out",
            is_error=True,
        )
    return Mismatch(
        f'{load.name} was trained without Weight Standardization, which the model has '
        f'({count(layers, "layer")}): filters lose their means and lengths, and the detector '
        f'may train to a lower AP. {advise(load.layers, "WS")}, or keep these weights exactly by '
        "affine WS, conv_cfg=dict(type='mmws.ConvAWS')"
    )


def _trained_parametrization(load: Load, layer: str) -> Parametrization | None:
    found = source_of(load.weights[f'{layer}.weight'])
    trained = None
    if found is not None:
        source, key = found
        trained = origin_of(source).parametrization(parent_of(key))
    if trained is None:
        for candidate in _TOLD_BY_NAMES:
            if all(f'{layer}.{name}' in load.weights for name in candidate.extra_parameters):
                return candidate
    return trained


# The extra parameters of these functions have names that no other layer has. Plain WS has none.
_TOLD_BY_NAMES = (
    Parametrization('Standardize', extra_parameters=('weight_gamma', 'weight_beta')),
    Parametrization('Standardize', extra_parameters=('gain',)),
    Parametrization('Normalize', extra_parameters=('weight_g',)),
)


def _is_read(load: Load, layer: str) -> bool:
    """Whether the weight was read from a file; a copy from another model is no reason to warn."""
    return source_of(load.weights[f'{layer}.weight']) is not None


def _is_same_function(a: Parametrization, b: Parametrization) -> bool:
    return (a.function, a.extra_parameters) == (b.function, b.extra_parameters)


def _standardizes(parametrization: Parametrization) -> bool:
    """Whether the function drops means and lengths of filters, which affine WS keeps."""
    is_affine = 'weight_gamma' in parametrization.extra_parameters
    return parametrization.function == 'Standardize' and not is_affine


def _takes_plain_weights(layer: nn.Module, parametrization: Parametrization) -> bool:
    """Whether a layer that loads plain weights computes what the plain layer did."""
    if isinstance(layer, WeightFunctionMixin):
        return layer.adopts_plain_weight()
    return parametrization.extra_parameters == ('weight_gamma', 'weight_beta')  # MMCV's affine WS


def _differing(one: Parametrization, other: Parametrization) -> str:
    others = dict(other.arguments)
    return ', '.join(f'{k}={v!r}' for k, v in one.arguments if others.get(k) != v)


def _remedy(current: Parametrization) -> str:
    if current == PLAIN:
        return (
            'Give the model the same layers (conv_cfg), or fold the checkpoint first, which makes '
            'it plain (mmws.fold)'
        )
    return 'Give the model the same layers (conv_cfg), or take weights trained with its own'


def advise(layers: Mapping[str, nn.Module], conv: str | None = None) -> str:
    """Return a sentence that names published weights with GN for the model's backbone.

    Args:
        layers: All modules of the model by name.
        conv: ``'WS'`` for weights trained with WS. ``None``: as the layers of the model are.
    """
    if conv is None:
        parametrizations = (parametrization_of(m) for m in layers.values() if has_filters(m))
        conv = 'WS' if any(p is not None and _standardizes(p) for p in parametrizations) else None
    trained = f'trained with GN{" and WS" if conv else ""}'
    for module in layers.values():
        if hasattr(module, 'depth') and hasattr(module, 'style'):
            cfg = {k: v for k, v in vars(module).items() if isinstance(v, (int, str, bool))}
            found = find_pretrained(dict(cfg, type=type(module).__name__), conv)
            if found is not None:
                return f'Take {found.checkpoint}, {trained}'
    return f'Take weights {trained}'
