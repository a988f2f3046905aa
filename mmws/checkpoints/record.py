"""What a model's weights are trained with, in plain types that a checkpoint can carry."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from mmws.functional import Standardize
from mmws.layers import BCN, WeightFunctionMixin

KEY = 'mmws'
"""Where a checkpoint's ``meta`` holds the record."""


@dataclass(frozen=True)
class Use:
    """How a layer uses the weight it stores. The plain layer's use is :data:`PLAIN`."""

    function: str | None
    """Class of the weight function; None for the weight itself."""
    arguments: tuple[tuple[str, Any], ...] = ()
    """Fields of the weight function, by name."""
    beside: tuple[str, ...] = ()
    """What is stored beside ``weight`` for it."""

    def __str__(self) -> str:
        name = {
            (None, ()): 'plain convolution',
            ('Standardize', ()): 'Weight Standardization',
            ('Standardize', ('gain',)): 'scaled Weight Standardization',
            ('Standardize', ('weight_gamma', 'weight_beta')): 'affine Weight Standardization',
            ('Normalize', ('weight_g',)): 'Weight Normalization',
        }.get((self.function, self.beside))
        return name or f'the weight function {self.function}'


PLAIN = Use(None)
STANDARDIZED = Use('Standardize', tuple(dataclasses.asdict(Standardize()).items()))

_NORMS = (  # the first that fits
    ('BCN', BCN),
    ('GN', nn.GroupNorm),
    ('IN', _InstanceNorm),
    ('BN', _BatchNorm),
    ('LN', nn.LayerNorm),
)


def use_of_weight(layer: nn.Module) -> Use | None:
    """Return how a convolution or linear layer uses its weight, None if that is not known."""
    if isinstance(layer, WeightFunctionMixin):
        return _use(layer.weight_function(), layer.beside_weight)
    mmcv = sys.modules.get('mmcv.cnn.bricks.conv_ws')
    if mmcv is not None and isinstance(layer, mmcv.ConvAWS2d):
        return _use(Standardize(1e-5, eps_inside=True), ('weight_gamma', 'weight_beta'))
    if mmcv is not None and isinstance(layer, mmcv.ConvWS2d):
        return _use(Standardize(layer.eps))
    # Another library's convolution may do anything with its weight.
    if type(layer).__module__.partition('.')[0] in ('torch', 'torchvision', 'mmcv'):
        return PLAIN
    return None


def norm_of(layer: nn.Module) -> dict[str, Any] | None:
    """Return the kind of a norm and its number of groups, None if the layer is no norm."""
    for name, cls in _NORMS:
        if isinstance(layer, cls):
            groups = getattr(layer, 'num_groups', None)
            return dict(norm=name) if groups is None else dict(norm=name, num_groups=groups)
    return None


def normalization_of(model: nn.Module) -> dict[str, Any] | None:
    """Return how the model's ``data_preprocessor`` normalizes pixels, None if it does not tell."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    if mean is None or std is None:
        return None
    return dict(
        mean=mean.flatten().tolist(),
        std=std.flatten().tolist(),
        # MMEngine keeps one flag for both directions; images are read as BGR.
        bgr_to_rgb=bool(getattr(preprocessor, '_channel_conversion', False)),
    )


def record(model: nn.Module) -> dict[str, Any]:
    """Describe what the weights of a model are trained with.

    Returns:
        Plain types, to be kept as ``checkpoint['meta']['mmws']``:

        - ``weights``: entries ``function``, ``arguments``, ``beside`` as in :class:`Use`, and
          ``layers``, the names of those that use their weight so; others use it plainly,
        - ``unknown``: names of layers of which that is not known,
        - ``norms``: entries ``norm``, perhaps ``num_groups``, and ``layers``,
        - ``data_preprocessor``: ``mean``, ``std`` and ``bgr_to_rgb``, or None.
    """
    uses: dict[Use | None, list[str]] = {}
    norms: dict[tuple, list[str]] = {}
    for name, layer in model.named_modules(remove_duplicate=False):  # as in a state dict
        norm = norm_of(layer)
        if norm is not None:
            norms.setdefault(tuple(norm.items()), []).append(name)
        elif has_filters(layer):
            uses.setdefault(use_of_weight(layer), []).append(name)
    return make_record(
        uses,
        [dict(norm, layers=layers) for norm, layers in norms.items()],
        normalization_of(model),
    )


def make_record(
    uses: Mapping[Use | None, list[str]],
    norms: list[dict[str, Any]],
    data_preprocessor: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return what :func:`record` returns, from the names of layers by how they use their weight."""
    return dict(
        weights=[
            dict(
                function=use.function,
                arguments=dict(use.arguments),
                beside=list(use.beside),
                layers=layers,
            )
            for use, layers in uses.items()
            if use is not None and use != PLAIN
        ],
        unknown=uses.get(None, []),
        norms=norms,
        data_preprocessor=data_preprocessor,
    )


class Record:
    """Answers what a layer was trained with, from what :func:`record` returned.

    Raises:
        ValueError: if it is not of this form.
    """

    def __init__(self, recorded: Mapping[str, Any]) -> None:
        try:
            self._uses = dict(_uses(recorded))
            self._norms = {
                name: {k: v for k, v in entry.items() if k != 'layers'}
                for entry in recorded['norms']
                for name in entry['layers']
            }
            self.data_preprocessor: dict[str, Any] | None = recorded['data_preprocessor']
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f'no record of mmws: {error!r}') from error

    def use(self, layer: str) -> Use | None:
        """Return how the layer of this name used its weight, None if that is not known."""
        return self._uses.get(layer, PLAIN)

    def norm(self, layer: str) -> dict[str, Any] | None:
        """Return kind and groups of the norm of this name, None if it was none."""
        return self._norms.get(layer)


def has_filters(layer: nn.Module) -> bool:
    """Whether a layer stores a ``weight`` of one row or more for each output."""
    weight = layer._parameters.get('weight')
    return weight is not None and weight.dim() >= 2 and not isinstance(layer, nn.Embedding)


def _use(function: Any, beside: tuple[str, ...] = ()) -> Use:
    arguments = dataclasses.asdict(function) if dataclasses.is_dataclass(function) else {}
    return Use(type(function).__name__, tuple(arguments.items()), tuple(beside))


def _uses(recorded: Mapping[str, Any]) -> Iterator[tuple[str, Use | None]]:
    for entry in recorded['weights']:
        use = Use(entry['function'], tuple(entry['arguments'].items()), tuple(entry['beside']))
        yield from ((name, use) for name in entry['layers'])
    yield from ((name, None) for name in recorded['unknown'])
