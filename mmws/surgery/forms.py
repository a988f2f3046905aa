"""What a layer becomes: the weighted form of a convolution, the norm in place of a batch norm.

A layer becomes another one by changing its class in place, as :mod:`torch.nn.utils.parametrize`
does. So it stays the same object: its parameters, hooks and mode, and whatever else in the model
refers to it, need not be carried over.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.ops import DeformConv2d, FrozenBatchNorm2d

from mmws import layers
from mmws.compat.mmcv_layers import (
    Conv2dAdaptivePadding,
    DeformConv2dPack,
    ModulatedDeformConv2dPack,
)
from mmws.layers import BCN, GroupNorm, WeightFunctionMixin
from mmws.registry import MODELS

from .folding import plain_class
from .mmcv_classes import DeformConv2d as MMCVDeformConv2d
from .mmcv_classes import ModulatedDeformConv2d, SyncBatchNorm, conv_ws, wrappers

# Short name of a weight function -> the layers that have it.
_WEIGHT_FUNCTIONS: dict[str, tuple[type[nn.Module], ...]] = {
    **{
        name: tuple(
            getattr(layers, layer.format(name))
            for layer in (
                'Conv{}1d', 'Conv{}2d', 'Conv{}3d',
                'ConvTranspose{}1d', 'ConvTranspose{}2d', 'ConvTranspose{}3d',
                'ConvSamePadding{}2d',
                'DeformConv{}2d', 'DeformConvPack{}2d', 'ModulatedDeformConvPack{}2d',
            )
        )
        for name in ('WS', 'WN')
    },
    'AWS': (layers.ConvAWS2d,),
    'ScaledWS': (layers.ScaledConvWS2d,),
}  # fmt: skip

# Short name of a norm -> its config for a number of channels. Layer and Instance Normalization of
# images are GN with one group and with one channel a group (arXiv 1803.08494, section 3.1).
_NORMS: dict[str, Callable[[int], dict[str, Any]]] = {
    'GN': lambda channels: dict(type='mmws.GN'),
    'BCN': lambda channels: dict(type='mmws.BCN'),
    'LN': lambda channels: dict(type='mmws.GN', num_groups=1),
    'IN': lambda channels: dict(type='mmws.GN', num_groups=channels),
}

# Layers that compute the same as another that mmws has a weighted form of.
_SAME_AS: dict[type[nn.Module], type[nn.Module]] = {
    wrappers.Conv2d: nn.Conv2d,
    wrappers.Conv3d: nn.Conv3d,
    wrappers.ConvTranspose2d: nn.ConvTranspose2d,
    wrappers.ConvTranspose3d: nn.ConvTranspose3d,
    MMCVDeformConv2d: DeformConv2d,
    ModulatedDeformConv2d: DeformConv2d,
}
_PLAIN_CONVS = (
    *_SAME_AS,
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(DeformConv2d, DeformConv2dPack, ModulatedDeformConv2dPack, Conv2dAdaptivePadding),
)
_BATCH_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(SyncBatchNorm, FrozenBatchNorm2d),
)
_TIMM_WS = ('StdConv2d', 'StdConv2dSame', 'ScaledStdConv2d', 'ScaledStdConv2dSame')
_TIMM_NORM_ACTS = ('BatchNormAct2d', 'SyncBatchNormAct', 'FrozenBatchNormAct2d')
# What a subclass may define and still do what its base does.
_HARMLESS = frozenset({'__init__', '_check_input_dim', 'get_downsample_stride'})


# ---- Convolutions


@dataclass(frozen=True)
class WeightForm:
    """A weight function and its arguments."""

    name: str
    args: dict[str, Any]

    @classmethod
    def of(cls, conv: str | dict[str, Any]) -> WeightForm:
        name, args = _resolve('conv', conv)
        if name not in _WEIGHT_FUNCTIONS:
            layer = MODELS.get(name)
            families = [n for n, members in _WEIGHT_FUNCTIONS.items() if layer in members]
            if not families:
                raise ValueError(
                    f'conv={name!r} is unknown: take one of {", ".join(_WEIGHT_FUNCTIONS)}, a '
                    "layer that has one of these such as 'mmws.ConvWS', or None"
                )
            name = families[0]
        form = cls(name, args)
        try:
            form._make(form._forms()[nn.Conv2d], 2, 2, 1)
        except (TypeError, ValueError) as error:
            raise ValueError(f'conv={conv!r}: {error}') from error
        return form

    def adopts_plain_weights(self) -> bool:
        """Whether layers of this form compute, with the weights of plain ones, what those did."""
        return all(layer.adopts_plain_weight() for layer in _WEIGHT_FUNCTIONS[self.name])

    def config(self, layer: nn.Module) -> dict[str, Any]:
        """Return what builds a layer like ``layer``, one of this form."""
        names = [name for name, cls in MODELS.module_dict.items() if cls is type(layer)]
        return dict(type=f'mmws.{names[0]}', **self.args)

    def _forms(self) -> dict[type[nn.Module], type[nn.Module]]:
        return {plain_class(layer): layer for layer in _WEIGHT_FUNCTIONS[self.name]}

    def _make(self, layer: type[nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # made on the CPU, for its attributes alone
            return layer(*args, **kwargs, **self.args)

    def _form_of(self, module: nn.Module) -> type[nn.Module] | None:
        """Return the layer that ``module`` is to be, ``None`` if there is none."""
        same = {**_SAME_AS, **dict.fromkeys(_timm('Conv2dSame'), Conv2dAdaptivePadding)}
        base = _base_among(type(module), (*_PLAIN_CONVS, *same))
        return self._forms().get(same.get(base, base))

    def why_not(self, module: nn.Module) -> str | None:
        """Return why ``module`` cannot have the weight function, ``None`` if it can."""
        if isinstance(module, WeightFunctionMixin):
            return 'has a weight function already'
        if isinstance(module, (conv_ws.ConvWS2d, conv_ws.ConvAWS2d, *_timm(*_TIMM_WS))):
            return 'standardizes its weight already'
        if self._form_of(module) is None:
            return f'there is no {self.name} form of this class'
        weight = module._parameters.get('weight')
        if weight is None or 'forward' in vars(module):
            return 'its weight or its forward is made by something else'
        if weight.numel() == module.out_channels:
            return 'filters of a single element have no direction and no deviation'
        return None

    def put_into(self, module: nn.Module, first: nn.Module) -> None:
        """Make ``module`` a layer that has the weight function.

        What the layer stores beside its weight is made such that the layer computes as before,
        where the weight function can do that; it is shared with ``first``, the first layer that
        holds the same weight.
        """
        template = self._make(
            self._form_of(module), module.in_channels, module.out_channels, module.kernel_size,
            groups=module.groups, bias=False,
        )  # fmt: skip
        weight = module.weight
        module.__class__ = type(template)
        _add_missing_attributes(module, template)
        for name in template.beside_weight:
            if first is not module:
                setattr(module, name, getattr(first, name))
                continue
            value = getattr(template, name).to(weight)
            if isinstance(getattr(template, name), nn.Parameter):
                setattr(module, name, nn.Parameter(value.detach(), weight.requires_grad))
            else:
                module.register_buffer(name, value)
        if first is module:
            with torch.no_grad():
                module.adopt_plain_weight()


def _add_missing_attributes(module: nn.Module, template: nn.Module) -> None:
    for name, value in vars(template).items():
        vars(module).setdefault(name, value)
    if 'bias' not in module._parameters:
        module.register_parameter('bias', None)


# ---- Norms


@dataclass(frozen=True)
class NormForm:
    """A kind of normalization and its arguments."""

    name: str
    args: dict[str, Any]

    @classmethod
    def of(cls, norm: str | dict[str, Any]) -> NormForm:
        name, args = _resolve('norm', norm)
        form = cls(name.removeprefix('mmws.'), args)
        layer = MODELS.get(form.config(32)['type'])
        if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
            raise ValueError(
                f'norm={form.name!r} is unknown: take one of {", ".join(_NORMS)}, the name '
                "of a registered layer such as 'mmws.GN', or None"
            )
        try:
            form._build(32)
        except (TypeError, ValueError) as error:
            raise ValueError(f'norm={norm!r}: {error}') from error
        return form

    def config(self, channels: int) -> dict[str, Any]:
        """Return what builds a layer of this form for ``channels`` channels."""
        short = _NORMS.get(self.name)
        return {**(short(channels) if short else dict(type=self.name)), **self.args}

    def _build(self, channels: int) -> nn.Module:
        cfg = self.config(channels)
        return MODELS.get(cfg.pop('type'))(channels, **cfg)

    def why_not(self, module: nn.Module) -> str | None:
        """Return why ``module`` stays as it is, ``None`` if it is to be replaced."""
        if _base_among(type(module), _BATCH_NORMS) is not None:
            return None
        if not _is_batch_norm(module):
            return 'is no batch normalization'
        if _base_among(type(module), _timm(*_TIMM_NORM_ACTS)) is None:
            return 'batch normalization with a forward of its own'
        if not issubclass(MODELS.get(self.config(32)['type']), GroupNorm):
            return 'batch normalization with an activation inside, for which GN alone has a form'
        return None

    def put_into(self, module: nn.Module, feeders: list[nn.Module]) -> None:
        """Make ``module``, a batch normalization, one of this kind.

        Args:
            module: The batch normalization.
            feeders: The convolutions whose outputs it normalizes.
        """
        stored = {'weight': module.weight, 'bias': module.bias}
        affine = stored['weight'] is not None
        tensors = [*stored.values(), *module.buffers()]
        like = next((t for t in tensors if t is not None), torch.empty(0))
        template = self._template(module, affine).to(device=like.device, dtype=like.dtype)
        trainable = not feeders or any(conv.weight.requires_grad for conv in feeders)
        frozen = affine and not any(p.requires_grad for p in module.parameters(recurse=False))

        module.__class__ = type(template)
        for name in ('num_features', 'momentum', 'track_running_stats', 'process_group', 'group'):
            vars(module).pop(name, None)
        internal = vars(nn.Module())
        vars(module).update({k: v for k, v in vars(template).items() if k not in internal})
        module._buffers.clear()
        module._parameters.clear()
        if isinstance(template, BCN):  # has such for its groups besides
            stored = {f'bn_{name}': value for name, value in stored.items()}
        for name, value in template._parameters.items():
            kept = stored.get(name)
            if kept is not None and value is not None and kept.shape == value.shape:
                # Frozen forms keep their gains in buffers.
                value = kept if isinstance(kept, nn.Parameter) else nn.Parameter(kept)
            module.register_parameter(name, value)
        module._buffers.update(template._buffers)
        for name, child in template.named_children():
            if name not in module._modules:  # as the activation of norm and activation in one
                module.add_module(name, child.train(module.training))
        if frozen:
            module.requires_grad_(trainable)

    def _template(self, module: nn.Module, affine: bool) -> nn.Module:
        """Return a layer of this kind for the channels of ``module``."""
        # torchvision's frozen form knows its channels by its gains alone.
        channels = getattr(module, 'num_features', None) or len(module.weight)
        plain = self._build(channels, **({} if affine else dict(affine=False)))
        if _base_among(type(module), _timm(*_TIMM_NORM_ACTS)) is None:
            return plain
        (with_activation,) = _timm('GroupNormAct')
        return with_activation(channels, plain.num_groups, plain.eps, affine)


def _is_batch_norm(module: nn.Module) -> bool:
    return 'BatchNorm' in type(module).__name__


# ---- Classes


def _base_among(cls: type[nn.Module], known: Iterable[type[nn.Module]]) -> type[nn.Module] | None:
    """Return the class in ``known`` that ``cls`` is, or whose behaviour it has unchanged."""
    known = set(known)
    for c in cls.__mro__:
        if c in known:
            return c
        own = {name for name, value in vars(c).items() if callable(value) or _is_method(value)}
        if own - _HARMLESS:
            return None
    return None


def _is_method(value: Any) -> bool:
    return isinstance(value, (property, staticmethod, classmethod))


def _timm(*names: str) -> tuple[type[nn.Module], ...]:
    """Return these layers of timm's; none if nobody imported timm, for then no model has them."""
    timm = sys.modules.get('timm.layers')
    return tuple(getattr(timm, name) for name in names if hasattr(timm, name))


def _resolve(kind: str, what: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return type and arguments of what the user asked for."""
    args = {'type': what} if isinstance(what, str) else dict(what)
    name = args.pop('type', None)
    if not isinstance(name, str):
        raise ValueError(f"{kind}={what!r}: give a name, or a dict with 'type' and arguments")
    return name, args
