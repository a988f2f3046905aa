r"""The operators, and which implementation a device takes.

With :math:`\mu_o` the mean of a row, :math:`\sigma_o^2` the sum of its squared deviations over
``divisor``, :math:`d_o = \sigma_o + \epsilon`, or :math:`\sqrt{\sigma_o^2 + \epsilon}` with
``eps_inside``:

.. math:: \hat W_o = \gamma_o s \frac{W_o - \mu_o}{d_o} + \beta_o

``standardize(rows, gain, shift, eps, eps_inside, divisor, scale)`` returns it with a list of
vectors, ``restandardize`` makes it again with the help of these, to be used before the next call
of the same thread, and ``standardize_backward`` returns the gradients with respect to ``rows``,
``gain`` and ``shift`` (empty where ``mask`` says not needed). What the vectors are is the
implementation's own business.

``normalize(rows, gain)``, ``renormalize`` and ``normalize_backward`` are the same for
:math:`\hat W_o = \gamma_o V_o / \lVert V_o \rVert`, where a row of zeros stays one.
"""

import functools
import importlib.util
from collections.abc import Callable
from types import ModuleType

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
        f'(Tensor grad, Tensor rows, Tensor? gain, Tensor[] kept, {_OPTIONS}, bool[3] mask)'
        ' -> (Tensor, Tensor, Tensor)'
    ),
    'normalize': '(Tensor rows, Tensor gain) -> (Tensor, Tensor[])',
    'renormalize': '(Tensor rows, Tensor gain, Tensor[] kept) -> Tensor',
    'normalize_backward': (
        '(Tensor grad, Tensor rows, Tensor gain, Tensor[] kept, bool[2] mask) -> (Tensor, Tensor)'
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

standardize = torch.ops.mmws.standardize.default
restandardize = torch.ops.mmws.restandardize.default
standardize_backward = torch.ops.mmws.standardize_backward.default
normalize = torch.ops.mmws.normalize.default
renormalize = torch.ops.mmws.renormalize.default
normalize_backward = torch.ops.mmws.normalize_backward.default
