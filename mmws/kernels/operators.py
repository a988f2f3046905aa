r"""The operators, and which implementation a device takes.

All take lists with an element for every layer: ``rows`` :math:`(O, \ldots)`, contiguous, ``O``
filters of ``n`` elements, float32 or float64; ``gains`` and ``shifts`` :math:`(O)` of the same
dtype, or empty lists. All rows of a call have one device and one dtype.

``standardize`` returns the standardized weights in ``dtype``, then vectors to keep, which are the
implementation's own business. ``standardize_backward`` takes the gradients, of any floating-point
dtype, and these vectors, and returns the gradients of all rows, then of all gains, then of all
shifts, those of the three that ``mask`` asks for. ``normalize`` and ``normalize_backward`` are the
same for Weight Normalization. The formulas are those of :mod:`mmws.functional`.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmws.compat.torch_private import below_autograd, dispatch_mode_active

from . import aten

_OPTIONS = 'float eps, bool unbiased, bool eps_inside, float scale'
_SCHEMAS = {
    'standardize': (
        f'(Tensor[] rows, Tensor[] gains, Tensor[] shifts, {_OPTIONS}, ScalarType dtype)'
        ' -> Tensor[]'
    ),
    'standardize_backward': (
        f'(Tensor[] grads, Tensor[] rows, Tensor[] gains, Tensor[] kept, {_OPTIONS}, bool[3] mask)'
        ' -> Tensor[]'
    ),
    'normalize': '(Tensor[] rows, Tensor[] gains, ScalarType dtype) -> Tensor[]',
    'normalize_backward': (
        '(Tensor[] grads, Tensor[] rows, Tensor[] gains, Tensor[] kept, bool[2] mask) -> Tensor[]'
    ),
}


@functools.cache
def _gpu_implementation(device: torch.device) -> ModuleType:
    """Return the Triton kernels where Triton is installed and knows the GPU."""
    known = torch.cuda.get_device_capability(device) >= (7, 0)
    if importlib.util.find_spec('triton') is None or not known:
        return aten
    from . import gpu

    return gpu


def _on_gpu(name: str) -> Callable[..., list[Tensor]]:
    def implementation(tensors: list[Tensor], *args: Any) -> list[Tensor]:
        # For one layer, Triton's launcher takes the host longer than the few calls of PyTorch's
        # kernels: a step at one image took twice the time.
        alone = len(tensors) == 1
        module = aten if alone else _gpu_implementation(tensors[0].device)
        return getattr(module, name)(tensors, *args)

    return implementation


def _define() -> torch.library.Library:
    library = torch.library.Library('mmws', 'DEF')
    for name, schema in _SCHEMAS.items():
        library.define(name + schema)
        library.impl(name, getattr(aten, name), 'CompositeExplicitAutograd')
        library.impl(name, _on_gpu(name), 'CUDA')
        # Called only where no graph is recorded; without this every call looks for a gradient.
        library.impl(name, torch.library.fallthrough_kernel, 'Autograd')
    return library


_library = _define()  # the operators live as long as this object


def _caller(name: str) -> Callable[..., list[Tensor]]:
    operator = getattr(torch.ops.mmws, name).default
    on_cpu, on_gpu = getattr(aten, name), _on_gpu(name)

    def call(tensors: list[Tensor], *args: Any) -> list[Tensor]:
        # The dispatcher takes time to carry lists of tensors from Python to Python, 2 % of a step
        # of a small model. So the operator is called only while a dispatch mode is active, such as
        # that of fake tensors.
        if dispatch_mode_active():
            return operator(tensors, *args)
        # Callers record a node of their own. Without autograd, which would look at every view, a
        # step of a small model takes 3 % less time.
        with below_autograd():
            return (on_gpu if tensors[0].is_cuda else on_cpu)(tensors, *args)

    return call


standardize = _caller('standardize')
standardize_backward = _caller('standardize_backward')
normalize = _caller('normalize')
normalize_backward = _caller('normalize_backward')


def standardize_one(rows: Tensor, *options: Any) -> tuple[Tensor, ...]:
    """Do :func:`standardize` for one layer without gain and shift, in the dtype of its rows.

    It takes less than half the time of a call with lists.
    """
    if not dispatch_mode_active():
        return aten.standardize_one(rows, *options)
    return tuple(standardize([rows], [], [], *options, rows.dtype))


def standardize_one_backward(
    grad: Tensor, rows: Tensor, mean: Tensor, r: Tensor, *options: Any
) -> Tensor:
    """Do :func:`standardize_backward` for :func:`standardize_one`."""
    if not dispatch_mode_active():
        return aten.standardize_one_backward(grad, rows, mean, r, *options)
    mask = [True, False, False]
    return standardize_backward([grad], [rows], [], [mean, r], *options, mask)[0]
