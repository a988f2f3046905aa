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

from mmws.compat.mmengine_private import swaps_channels
from mmws.functional import Standardize
from mmws.layers import BCN, WeightFunctionMixin

META_KEY = 'mmws'
"""Key of the metadata in a checkpoint's ``meta``."""


@dataclass(frozen=True)
class Parametrization:
    """How a layer computes its effective weight from the parameters it stores.

    A plain layer, which uses its weight as it is stored, has :data:`PLAIN`.
    """

    function: str | None
    """Class name of the weight function; None if the weight is used as it is stored."""
    arguments: tuple[tuple[str, Any], ...] = ()
    """Names and values of the fields of the weight function."""
    extra_parameters: tuple[str, ...] = ()
    """Names of the parameters that the function takes in addition to ``weight``."""

    def __str__(self) -> str:
        name = {
            (None, ()): 'plain convolution',
            ('Standardize', ()): 'Weight Standardization',
            ('Standardize', ('gain',)): 'scaled Weight Standardization',
            ('Standardize', ('weight_gamma', 'weight_beta')): 'affine Weight Standardization',
            ('Normalize', ('weight_g',)): 'Weight Normalization',
        }.get((self.function, self.extra_parameters))
        return name or f'the weight function {self.function}'


PLAIN = Parametrization(None)
STANDARDIZED = Parametrization('Standardize', tuple(dataclasses.asdict(Standardize()).items()))

_NORMS = (  # A layer gets the name of the first class that it is an instance of.
    ('BCN', BCN),
    ('GN', nn.GroupNorm),
    ('IN', _InstanceNorm),
    ('BN', _BatchNorm),
    ('LN', nn.LayerNorm),
)


def parametrization_of(layer: nn.Module) -> Parametrization | None:
    """Return how a convolution or linear layer computes its effective weight, None if unknown."""
    if isinstance(layer, WeightFunctionMixin):
        return _parametrization(layer.weight_function(), layer.beside_weight)
    mmcv = sys.modules.get('mmcv.cnn.bricks.conv_ws')
    if mmcv is not None and isinstance(layer, mmcv.ConvAWS2d):
        function = Standardize(1e-5, eps_inside=True)
        return _parametrization(function, ('weight_gamma', 'weight_beta'))
    if mmcv is not None and isinstance(layer, mmcv.ConvWS2d):
        return _parametrization(Standardize(layer.eps))
    # Classes of these packages use their weight as it is; other packages may transform theirs.
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
    """Return how the model's ``data_preprocessor`` normalizes pixels, None if that is unknown."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    if mean is None or std is None:
        return None
    return dict(
        mean=mean.flatten().tolist(),
        std=std.flatten().tolist(),
        # MMDetection reads images as BGR, so they are swapped from BGR to RGB.
        bgr_to_rgb=swaps_channels(preprocessor),
    )


def describe_weights(model: nn.Module) -> dict[str, Any]:
    """Describe what the weights of a model are trained with.

    Returns:
        A dict of plain types, which checkpoints keep as ``checkpoint['meta']['mmws']``:

        - ``weights``: entries with ``function`` and ``arguments`` as in :class:`Parametrization`,
          ``beside`` (its ``extra_parameters``) and ``layers``, the names of the layers that have
          this parametrization; layers in no entry use their weight as it is stored,
        - ``unknown``: names of layers whose parametrization is unknown,
        - ``norms``: entries with ``norm``, ``num_groups`` if it has groups, and ``layers``,
        - ``data_preprocessor``: ``mean``, ``std`` and ``bgr_to_rgb``, or None.
    """
    parametrizations: dict[Parametrization | None, list[str]] = {}
    norms: dict[tuple[tuple[str, Any], ...], list[str]] = {}
    # A shared layer is listed under each of its names, as its weight is in a state dict.
    for name, layer in model.named_modules(remove_duplicate=False):
        norm = norm_of(layer)
        if norm is not None:
            norms.setdefault(tuple(norm.items()), []).append(name)
        elif has_filters(layer):
            parametrizations.setdefault(parametrization_of(layer), []).append(name)
    return make_metadata(
        parametrizations,
        [dict(norm, layers=layers) for norm, layers in norms.items()],
        normalization_of(model),
    )


def make_metadata(
    parametrizations: Mapping[Parametrization | None, list[str]],
    norms: list[dict[str, Any]],
    data_preprocessor: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the dict of :func:`describe_weights` from the names of layers by parametrization."""
    return dict(
        weights=[
            dict(
                function=parametrization.function,
                arguments=dict(parametrization.arguments),
                beside=list(parametrization.extra_parameters),
                layers=layers,
            )
            for parametrization, layers in parametrizations.items()
            if parametrization is not None and parametrization != PLAIN
        ],
        unknown=parametrizations.get(None, []),
        norms=norms,
        data_preprocessor=data_preprocessor,
    )


class WeightMetadata:
    """Answers what a layer was trained with, from a dict of :func:`describe_weights`.

    Attributes:
        data_preprocessor: How the images of the training were normalized, None if unknown.

    Raises:
        ValueError: if the dict has another form.
    """

    def __init__(self, described: Mapping[str, Any]) -> None:
        try:
            self._parametrizations = dict(_parametrizations(described))
            self._norms = {
                name: {k: v for k, v in entry.items() if k != 'layers'}
                for entry in described['norms']
                for name in entry['layers']
            }
            self.data_preprocessor: dict[str, Any] | None = described['data_preprocessor']
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f'no record of mmws: {error!r}') from error

    def parametrization(self, layer: str) -> Parametrization | None:
        """Return the parametrization of the layer of this name, None if it is unknown."""
        return self._parametrizations.get(layer, PLAIN)

    def norm(self, layer: str) -> dict[str, Any] | None:
        """Return kind and groups of the norm of this name, None if the layer was no norm."""
        return self._norms.get(layer)


def has_filters(layer: nn.Module) -> bool:
    """Whether a layer stores a ``weight`` of one row or more for each output."""
    weight = layer._parameters.get('weight')
    return weight is not None and weight.dim() >= 2 and not isinstance(layer, nn.Embedding)


def _parametrization(function: Any, extra_parameters: tuple[str, ...] = ()) -> Parametrization:
    has_fields = dataclasses.is_dataclass(function) and not isinstance(function, type)
    arguments = dataclasses.asdict(function) if has_fields else {}
    return Parametrization(type(function).__name__, tuple(arguments.items()), extra_parameters)


def _parametrizations(described: Mapping[str, Any]) -> Iterator[tuple[str, Parametrization | None]]:
    for entry in described['weights']:
        parametrization = Parametrization(
            entry['function'], tuple(entry['arguments'].items()), tuple(entry['beside'])
        )
        yield from ((name, parametrization) for name in entry['layers'])
    yield from ((name, None) for name in described['unknown'])
