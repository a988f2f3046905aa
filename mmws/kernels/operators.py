r"""The operators, and which implementation a device takes.

With :math:`\mu_o` the mean of a row, :math:`\sigma_o^2` the sum of its squared deviations over
``divisor``, :math:`d_o = \sigma_o + \epsilon`, or :math:`\sqrt{\sigma_o^2 + \epsilon}` with
``eps_inside``:

.. math:: \hat W_o = \gamma_o s \frac{W_o - \mu_o}{d_o} + \beta_o

``standardize(rows, gain, shift, eps, eps_inside, divisor, scale)`` returns it with a list of
vectors, and ``restandardize`` makes it again with the help of these, to be used before the next
call of the same thread. ``standardize_backward`` returns the gradients with respect to ``rows``,
``gain`` and ``shift``, and what ``restandardize`` would: of these four those that ``mask`` asks
for. What the vectors are is the implementation's own business.

``normalize(rows, gain)``, ``renormalize`` and ``normalize_backward`` are the same for
:math:`\hat W_o = \gamma_o V_o / \lVert V_o \rVert`, where a row of zeros stays one.
"""

import functools
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import aten

_OPTIONS = 'float eps, bool eps_inside, int divisor, float scale'
_SCHEMAS = {
    'standardize': f'(Tensor rows, Tensor? gain, Tensor? shift, {_OPTIONS}) -> (Tensor, Tensor[])',
    'restandardize': (
        f'(Tensor rows, Tensor? gain, Tensor? shift, Tensor[] kept, {_OPTIONS}) -> Tensor'
    ),
    'standardize_backward': (
        f'(Tensor grad, Tensor rows, Tensor? gain, Tensor? shift, Tensor[] kept, {_OPTIONS},'
        ' bool[4] mask) -> Tensor[]'
    ),
    'normalize': '(Tensor rows, Tensor gain) -> (Tensor, Tensor[])',
    'renormalize': '(Tensor rows, Tensor gain, Tensor[] kept) -> Tensor',
    'normalize_backward': (
        '(Tensor grad, Tensor rows, Tensor gain, Tensor[] kept, bool[3] mask) -> Tensor[]'
    ),
}


# The Triton that came with earlier releases lacks what the kernels use.
TRITON_IS_RECENT = torch.__version__ >= (2, 4)


@functools.cache
def _gpu_implementation(device: torch.device) -> ModuleType:
    """Return the Triton kernels where Triton is installed and knows the GPU."""
    known = TRITON_IS_RECENT and torch.cuda.get_device_capability(device) >= (7, 0)
    if importlib.util.find_spec('triton') is None or not known:
        return aten
    from . import gpu

    return gpu


def _on_gpu(name: str) -> Callable:
    def implementation(rows: Tensor, *args):
        return getattr(_gpu_implementation(rows.device), name)(rows, *args)

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


def _shortcut(name: str) -> Callable:
    """Return a function that calls the operator, on a CPU without the detour of the dispatcher.

    The dispatcher's way back to Python costs more than a small filter. Whoever watches calls by a
    dispatch mode sees the operator on every device.
    """
    operator = getattr(torch.ops.mmws, name).default
    implementation = getattr(aten, name)

    def call(tensor: Tensor, *args: Any) -> Any:
        if tensor.is_cpu and torch._C._len_torch_dispatch_stack() == 0:
            return implementation(tensor, *args)
        return operator(tensor, *args)

    return call


standardize = _shortcut('standardize')
restandardize = _shortcut('restandardize')
standardize_backward = _shortcut('standardize_backward')
normalize = _shortcut('normalize')
renormalize = _shortcut('renormalize')
normalize_backward = _shortcut('normalize_backward')
