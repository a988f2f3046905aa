"""Layer classes of libraries that may be absent: known where somebody imported the library.

A model holds layers of a library only if the library was imported, so nothing is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torchvision.ops import DeformConv2d, FrozenBatchNorm2d

# What a subclass may define and still compute what its base computes.
_HARMLESS = frozenset({'__init__', '__repr__', 'extra_repr', '_check_input_dim',
                       'get_downsample_stride', 'reset_parameters'})  # fmt: skip


def loaded_classes(module: str, *names: str) -> tuple[type[nn.Module], ...]:
    """Return those of the classes ``module.name`` that exist, none if ``module`` is not loaded."""
    library = sys.modules.get(module)
    found = (getattr(library, name, None) for name in names)
    return tuple(cls for cls in found if isinstance(cls, type))


def loaded_functions(module: str, *names: str) -> tuple[Callable[..., Any], ...]:
    """Return those of the functions ``module.name`` that exist, none if it is not loaded."""
    library = sys.modules.get(module)
    found = (getattr(library, name, None) for name in names)
    return tuple(function for function in found if callable(function))


def mmcv_deformable() -> tuple[type[nn.Module], ...]:
    """Return MMCV's deformable convolutions."""
    return loaded_classes('mmcv.ops', 'DeformConv2d', 'ModulatedDeformConv2d')


def conv_modules() -> tuple[type[nn.Module], ...]:
    """Return MMCV's block of convolution, norm and activation, as a tuple of one or no class."""
    return loaded_classes('mmcv.cnn', 'ConvModule')


def is_convolution(module: nn.Module) -> bool:
    """Return whether ``module`` is a convolution of PyTorch, torchvision or MMCV, or derived."""
    return isinstance(module, (_ConvNd, DeformConv2d, *mmcv_deformable()))


def is_linear(module: nn.Module) -> bool:
    """Return whether ``module`` is a linear layer of PyTorch or PyTorch Geometric, or derived."""
    return isinstance(module, (nn.Linear, *geometric_linear()))


def geometric_linear() -> tuple[type[nn.Module], ...]:
    """Return the linear layer of PyTorch Geometric, as a tuple of one or no class."""
    return loaded_classes('torch_geometric.nn.dense.linear', 'Linear')


def is_quantization(module: nn.Module) -> bool:
    """Return whether ``module`` is one of PyTorch's for quantization, fused layers included."""
    return type(module).__module__.startswith('torch.ao.')


def is_batch_norm(module: nn.Module) -> bool:
    """Return whether ``module`` is Batch Normalization, synchronized, frozen or derived."""
    known = (_BatchNorm, FrozenBatchNorm2d, *loaded_classes('mmcv.ops', 'SyncBatchNorm'))
    return isinstance(module, known) or is_frozen_batch_norm(module)


def is_frozen_batch_norm(module: nn.Module) -> bool:
    """Return whether ``module`` is a Batch Normalization whose statistics never change.

    The frozen forms of DETR, detectron2 and others share no base class. They are recognized by
    what they hold: gain, offset, mean and variance of every channel, and nothing else. What they
    compute is checked where they are replaced (:func:`mmws.surgery.norms.is_affine_map`).
    """
    if isinstance(module, _NormBase) or 'running_mean' not in module._buffers:
        return isinstance(module, FrozenBatchNorm2d)
    if isinstance(module, torch.jit.ScriptModule):
        return False
    held = {**module._buffers, **module._parameters}
    held.pop('num_batches_tracked', None)
    if set(held) != {'weight', 'bias', 'running_mean', 'running_var'}:
        return False
    return len({None if tensor is None else tensor.shape for tensor in held.values()}) == 1


def is_normalization(module: nn.Module) -> bool:
    """Return whether ``module`` is of a known class of normalization layers."""
    known: tuple[type[nn.Module], ...] = (_NormBase, nn.GroupNorm, nn.LayerNorm)
    if hasattr(nn, 'RMSNorm'):  # PyTorch 2.4
        known += (nn.RMSNorm,)
    return isinstance(module, known) or is_batch_norm(module)


def base_among(cls: type[nn.Module], known: Iterable[type[nn.Module]]) -> type[nn.Module] | None:
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
