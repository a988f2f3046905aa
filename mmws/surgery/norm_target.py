"""What a batch normalization becomes: Group Normalization or another kind.

The layer changes its class in place and stays the same object, as convolutions do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from mmws.layers import BCN, GroupNorm, largest_group_count

from .conv_target import type_and_arguments
from .libraries import base_among, is_batch_norm, is_frozen_batch_norm, loaded_classes
from .norm_act import BCNAct
from .registered import find_layer

# Short name of a norm -> its config for a number of channels. Layer and Instance Normalization of
# images are GN with one group and with one channel a group (arXiv 1803.08494, section 3.1).
_NORMS: dict[str, Callable[[int], dict[str, Any]]] = {
    'GN': lambda channels: dict(type='mmws.GN'),
    'BCN': lambda channels: dict(type='mmws.BCN'),
    'LN': lambda channels: dict(type='mmws.GN', num_groups=1),
    'IN': lambda channels: dict(type='mmws.GN', num_groups=channels),
}
_DEFAULT_GROUPS = 32
# The fewest values of a group whose deviation means something; two values become -1 and 1.
_FEWEST_VALUES = 16

_BATCH_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, FrozenBatchNorm2d),
)
_TIMM_NORM_ACTS = ('BatchNormAct2d', 'SyncBatchNormAct', 'FrozenBatchNormAct2d')
_STATE_OF_BATCH_NORM = (
    'num_features', 'momentum', 'track_running_stats', 'process_group', 'group',
)  # fmt: skip
# Models read these attributes of their batch normalizations by themselves. The layer in their
# place answers as a batch normalization without statistics does.
_WITHOUT_STATISTICS = dict(
    running_mean=None, running_var=None, num_batches_tracked=None, track_running_stats=False
)


def _batch_norms() -> tuple[type[nn.Module], ...]:
    return (*_BATCH_NORMS, *loaded_classes('mmcv.ops', 'SyncBatchNorm'))


def _timm_norm_acts() -> tuple[type[nn.Module], ...]:
    return loaded_classes('timm.layers', *_TIMM_NORM_ACTS)


@dataclass(frozen=True)
class NormTarget:
    """A kind of normalization and its arguments.

    Attributes:
        name: Short name, such as ``'GN'``, or the registered name of a layer.
        args: Its arguments.
    """

    name: str
    args: dict[str, Any]

    @classmethod
    def parse(cls, norm: str | dict[str, Any]) -> NormTarget:
        """Return what the argument ``norm`` of :func:`mmws.convert` asks for.

        Raises:
            ValueError: if the name or an argument is unknown.
        """
        name, args = type_and_arguments('norm', norm)
        target = cls(name.removeprefix('mmws.'), args)
        if target._layer() is None:
            raise ValueError(
                f'norm={target.name!r} is unknown: take one of {", ".join(_NORMS)}, the name '
                "of a registered layer such as 'mmws.GN', or None"
            )
        try:
            target._build(_DEFAULT_GROUPS)
        except (TypeError, ValueError) as error:
            raise ValueError(f'norm={norm!r}: {error}') from error
        return target

    def config(self, channels: int) -> dict[str, Any]:
        """Return the config that builds a layer of this kind for ``channels`` channels."""
        short = _NORMS.get(self.name)
        return {**(short(channels) if short else dict(type=self.name)), **self.args}

    def config_of(self, norm: nn.Module, channels: int) -> dict[str, Any]:
        """Return the config that builds a layer like ``norm``, which is of this kind."""
        config = self.config(channels)
        accepted = inspect.signature(type(norm)).parameters
        for name in ('eps', 'num_groups', 'affine'):
            value = getattr(norm, name, None)
            if name in accepted and value is not None and value != accepted[name].default:
                usual = name == 'num_groups' and value == largest_group_count(channels)
                if name in config or not usual:
                    config[name] = value
        return config

    def why_not(self, module: nn.Module, positions: int | None = None) -> str | None:
        """Return why ``module`` stays as it is, ``None`` if it is to be replaced.

        Args:
            module: A normalization layer.
            positions: The fewest positions of a channel that it was given, if known.
        """
        if not is_batch_norm(module):
            return 'is no batch normalization'
        if 'forward' in vars(module):  # of the instance, put there by a user or a library
            return 'batch normalization with a forward of its own'
        if not {'weight', 'bias'}.isdisjoint(vars(module)):  # as by pruning
            return 'its weight or its bias is made by something else'
        layer = self._layer()
        if base_among(type(module), _timm_norm_acts()) is not None:
            if layer is None or not issubclass(layer, GroupNorm):  # BCN is derived from it
                return 'batch normalization with an activation inside, which only GN and BCN take'
        elif base_among(type(module), _batch_norms()) is None and not is_affine_map(module):
            return 'batch normalization with a forward of its own'
        if positions == 1 and _channels(module) == 1:
            return 'batch normalization of single values, of which no other norm leaves anything'
        return None

    def put_into(self, module: Any, feeders: list[nn.Module], positions: int | None = None) -> None:
        """Make ``module``, a batch normalization, one of this kind.

        Args:
            module: The batch normalization.
            feeders: The layers whose outputs it normalizes.
            positions: The fewest positions of a channel that it was given, if known.
        """
        stored = {'weight': module.weight, 'bias': module.bias}
        affine = stored['weight'] is not None
        tensors = [*stored.values(), *module.buffers()]
        like = next((t for t in tensors if t is not None), torch.empty(0))
        template = self._template(module, affine, positions).to(like.device, like.dtype)
        trainable = not feeders or any(conv.weight.requires_grad for conv in feeders)
        frozen = affine and not any(p.requires_grad for p in module.parameters(recurse=False))
        answers = {**_WITHOUT_STATISTICS, 'num_features': _channels(module)}

        module.__class__ = type(template)
        for name in _STATE_OF_BATCH_NORM:
            vars(module).pop(name, None)
        internal = vars(nn.Module())
        vars(module).update({k: v for k, v in vars(template).items() if k not in internal})
        module._buffers.clear()
        module._parameters.clear()
        if isinstance(template, BCN):  # whose own gain is that of the groups
            stored = {f'bn_{name}': value for name, value in stored.items()}
        for name, value in template._parameters.items():
            before = stored.get(name)
            if before is not None and value is not None and before.shape == value.shape:
                # Frozen forms keep their gains in buffers.
                value = before if isinstance(before, nn.Parameter) else nn.Parameter(before)
            module.register_parameter(name, value)
        module._buffers.update(template._buffers)
        for name, child in template.named_children():
            if name not in module._modules:  # as the activation of norm and activation in one
                module.add_module(name, child.train(module.training))
        vars(module).update({k: v for k, v in answers.items() if not hasattr(module, k)})
        if frozen:
            module.requires_grad_(trainable)

    def _layer(self) -> type[nn.Module] | None:
        return find_layer(self.config(_DEFAULT_GROUPS)['type'])

    def _build(self, channels: int, **defaults: Any) -> nn.Module:
        """Build a layer; ``defaults`` hold where nothing else was asked for and it takes them."""
        config = self.config(channels)
        config.pop('type')
        layer = self._layer()
        assert layer is not None  # parse() said so
        accepted = inspect.signature(layer).parameters
        defaults = {k: v for k, v in defaults.items() if k in accepted and k not in self.args}
        with torch.device('cpu'):  # whatever the default device is
            return layer(channels, **{**config, **defaults})

    def _template(self, module: nn.Module, affine: bool, positions: int | None) -> nn.Module:
        """Return a layer of this kind for the channels of ``module``."""
        channels = _channels(module)
        # Gains and offsets are there if they were before: those of PyTorch's instance
        # normalization are not by default, and trained ones would be lost.
        defaults: dict[str, Any] = {'eps': getattr(module, 'eps', 1e-5), 'affine': affine}
        plain = self._build(channels, **defaults)
        if positions == 1 and isinstance(plain, GroupNorm):
            groups = self._groups_of_single_positions(channels, plain.num_groups)
            if groups != plain.num_groups:
                config = {**self.args, 'num_groups': groups}
                plain = NormTarget(self.name, config)._build(channels, **defaults)
        if base_among(type(module), _timm_norm_acts()) is None:
            return plain
        if isinstance(plain, BCN):
            plain.__class__ = BCNAct
            return plain
        (with_activation,) = loaded_classes('timm.layers', 'GroupNormAct')
        return with_activation(channels, plain.num_groups, plain.eps, affine)

    def _groups_of_single_positions(self, channels: int, groups: int) -> int:
        """Return a number of groups whose values are enough without any position to average."""
        if 'num_groups' in self.args and channels // groups > 1:
            return groups  # as asked for, and not meaningless
        fewest = min(_FEWEST_VALUES, channels)
        return largest_group_count(channels, min(groups, channels // fewest))


def _channels(module: nn.Module) -> int:
    # Frozen forms know their channels by their tensors alone.
    known = getattr(module, 'num_features', None)
    return known or next(len(t) for t in module.state_dict().values() if t.dim() == 1)


def is_affine_map(module: nn.Module) -> bool:
    """Return whether a frozen batch normalization computes what its tensors say, and no more.

    It is tried on random values: the forms of DETR, detectron2 and others differ in how they
    compute the map, and in eps.
    """
    if not is_frozen_batch_norm(module):
        return False
    names = ('running_mean', 'running_var', 'weight', 'bias')
    mean, var, weight, bias = (getattr(module, name).detach() for name in names)
    if mean.dim() != 1 or mean.is_meta:
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, len(mean), 3, 3, generator=generator, device='cpu').to(mean)
    with _evaluating(module), torch.no_grad():
        try:
            y = module(x)
        except (RuntimeError, TypeError, ValueError):  # it takes other inputs
            return False
    if not isinstance(y, Tensor) or y.shape != x.shape:
        return False
    candidates = dict.fromkeys((getattr(module, 'eps', 1e-5), 1e-5, 1e-3, 1e-6, 0.0))
    return any(
        torch.allclose(y, F.batch_norm(x, mean, var, weight, bias, eps=eps), rtol=1e-4, atol=1e-4)
        for eps in candidates
    )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    mode = module.training
    module.training = False
    try:
        yield
    finally:
        module.training = mode
