"""What a convolution or linear layer becomes: the same layer with a weight function.

A layer becomes another one by changing its class in place, as :mod:`torch.nn.utils.parametrize`
does. So it stays the same object: its parameters, hooks and mode, and whatever else in the model
refers to it, need not be carried over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.ops import DeformConv2d

from mmws import layers
from mmws.compat.mmcv_layers import (
    Conv2dAdaptivePadding,
    DeformConv2dPack,
    ModulatedDeformConv2dPack,
)
from mmws.layers import WeightFunctionMixin

from .folding import plain_class
from .libraries import (
    base_among,
    geometric_linear,
    is_convolution,
    is_linear,
    is_quantization,
    loaded_classes,
)
from .registered import find_layer, registered_name

# Short name of a weight function -> the layers that have it.
_WEIGHT_FUNCTIONS: dict[str, tuple[type[nn.Module], ...]] = {
    **{
        name: tuple(
            getattr(layers, layer.format(name))
            for layer in (
                'Conv{}1d', 'Conv{}2d', 'Conv{}3d',
                'ConvTranspose{}1d', 'ConvTranspose{}2d', 'ConvTranspose{}3d',
                'ConvSamePadding{}2d', 'Linear{}',
                'DeformConv{}2d', 'DeformConvPack{}2d', 'ModulatedDeformConvPack{}2d',
            )
        )
        for name in ('WS', 'AWS', 'WN')
    },
    'ScaledWS': (layers.ScaledConvWS2d,),
}  # fmt: skip

_LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.Linear, DeformConv2d),
    *(Conv2dAdaptivePadding, DeformConv2dPack, ModulatedDeformConv2dPack),
)
_TIMM_WS = ('StdConv2d', 'StdConv2dSame', 'ScaledStdConv2d', 'ScaledStdConv2dSame')


def _known_layers() -> dict[type[nn.Module], type[nn.Module]]:
    """Return the layers that have a weighted form, and the layers that those are forms of.

    Some layers of libraries compute the same as a layer of PyTorch or torchvision.
    """
    known: dict[type[nn.Module], type[nn.Module]] = {cls: cls for cls in _LAYERS}
    for name in ('Conv2d', 'Conv3d', 'ConvTranspose2d', 'ConvTranspose3d', 'Linear'):
        wrappers = loaded_classes('mmcv.cnn.bricks.wrappers', name)
        known.update(dict.fromkeys(wrappers, getattr(nn, name)))
    known.update(dict.fromkeys(geometric_linear(), nn.Linear))
    for name in ('DeformConv2d', 'ModulatedDeformConv2d'):
        known.update(dict.fromkeys(loaded_classes('mmcv.ops', name), DeformConv2d))
    known.update(dict.fromkeys(loaded_classes('timm.layers', 'Conv2dSame'), Conv2dAdaptivePadding))
    return known


def is_weighted_candidate(module: nn.Module) -> bool:
    """Return whether ``module`` is a convolution or a linear layer of any class."""
    return is_convolution(module) or is_linear(module)


@dataclass(frozen=True)
class ConvTarget:
    """A weight function and its arguments.

    Attributes:
        name: Short name, such as ``'WS'``.
        args: Arguments of the layers that have it, beside those of the plain layers.
    """

    name: str
    args: dict[str, Any]

    @classmethod
    def parse(cls, conv: str | dict[str, Any]) -> ConvTarget:
        """Return what the argument ``conv`` of :func:`mmws.convert` asks for.

        Raises:
            ValueError: if the name or an argument is unknown.
        """
        name, args = type_and_arguments('conv', conv)
        if name not in _WEIGHT_FUNCTIONS:
            layer = find_layer(name)
            families = [n for n, members in _WEIGHT_FUNCTIONS.items() if layer in members]
            if not families:
                raise ValueError(
                    f'conv={name!r} is unknown: take one of {", ".join(_WEIGHT_FUNCTIONS)}, a '
                    "layer that has one of these such as 'mmws.ConvWS', or None"
                )
            name = families[0]
        target = cls(name, args)
        try:
            target._build(target._by_plain_class()[nn.Conv2d], 2, 2, 1)
        except (TypeError, ValueError) as error:
            raise ValueError(f'conv={conv!r}: {error}') from error
        return target

    def adopts_plain_weights(self) -> bool:
        """Return whether layers compute, with the weights of plain ones, what those computed."""
        members: tuple[Any, ...] = _WEIGHT_FUNCTIONS[self.name]
        return all(layer.adopts_plain_weight() for layer in members)

    def config(self, layer: nn.Module) -> dict[str, Any]:
        """Return the config that builds a layer like ``layer``, which has this weight function."""
        return dict(type=f'mmws.{registered_name(type(layer))}', **self.args)

    def why_not(self, module: nn.Module) -> str | None:
        """Return why ``module`` cannot have the weight function, ``None`` if it can."""
        if isinstance(module, WeightFunctionMixin):
            return 'has a weight function already'
        standardizing = (
            *loaded_classes('mmcv.cnn.bricks.conv_ws', 'ConvWS2d', 'ConvAWS2d'),
            *loaded_classes('timm.layers', *_TIMM_WS),
        )
        if isinstance(module, standardizing):
            return 'standardizes its weight already'
        if is_quantization(module):
            return 'is prepared for quantization: convert the model before that'
        if self._weighted_class(module) is None:
            return f'there is no {self.name} form of this class'
        weight = module._parameters.get('weight')
        if weight is None or 'forward' in vars(module):
            return 'its weight or its forward is made by something else'
        if 'bias' in vars(module):  # as by pruning
            return 'its bias is made by something else'
        if weight.numel() == _filters(module):
            return 'filters of a single element have no direction and no deviation'
        return None

    def put_into(self, module: Any, first: nn.Module) -> None:
        """Make ``module`` a layer that has the weight function.

        What the layer stores beside its weight is made such that the layer computes as before,
        where the weight function can do that; it is shared with ``first``, the first layer that
        holds the same weight and divides it into filters alike.
        """
        weighted = self._weighted_class(module)
        assert weighted is not None  # why_not() said so
        if is_linear(module):
            features_out, features_in = module.weight.shape
            template = self._build(weighted, features_in, features_out, bias=False)
        else:
            template = self._build(
                weighted, module.in_channels, module.out_channels, module.kernel_size,
                groups=module.groups, bias=False,
            )  # fmt: skip
        weight = module.weight
        module.__class__ = type(template)
        _add_missing_attributes(module, template)
        for name in template.beside_weight:
            value = getattr(template, name).to(weight)
            if first is not module:
                value = getattr(first, name)
            elif name in template._parameters:
                value = nn.Parameter(value.detach(), weight.requires_grad)
            if name in template._parameters:
                module.register_parameter(name, value)
            else:
                module.register_buffer(name, value)
        if isinstance(module, WeightFunctionMixin) and first is module:
            with torch.no_grad():
                module.adopt_plain_weight()

    def _by_plain_class(self) -> dict[type[nn.Module], type[nn.Module]]:
        return {plain_class(layer): layer for layer in _WEIGHT_FUNCTIONS[self.name]}

    def _weighted_class(self, module: nn.Module) -> type[nn.Module] | None:
        known = _known_layers()
        base = base_among(type(module), known)
        return None if base is None else self._by_plain_class().get(known[base])

    def _build(self, layer: type[nn.Module], *args: Any, **kwargs: Any) -> Any:
        # Made on the CPU, whatever the default device is, for its attributes alone.
        with torch.random.fork_rng(devices=[]), torch.device('cpu'):
            return layer(*args, **kwargs, **self.args)


def _filters(module: Any) -> int:
    return len(module.weight) if is_linear(module) else module.out_channels


def _add_missing_attributes(module: nn.Module, template: nn.Module) -> None:
    for name, value in vars(template).items():
        vars(module).setdefault(name, value)
    if 'bias' not in module._parameters:
        module.register_parameter('bias', None)


def type_and_arguments(kind: str, what: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return type and arguments of what the user asked for.

    Raises:
        ValueError: if there is no type.
    """
    args = {'type': what} if isinstance(what, str) else dict(what)
    name = args.pop('type', None)
    if not isinstance(name, str):
        raise ValueError(f"{kind}={what!r}: give a name, or a dict with 'type' and arguments")
    return name, args
