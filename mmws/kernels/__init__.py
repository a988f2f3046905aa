r"""Weight functions as single calls of PyTorch's dispatcher, for a device to run as one kernel.

Importing this package defines the operators ``torch.ops.mmws.*``. With Triton on a GPU each is one
kernel (:mod:`mmws.kernels.gpu`), elsewhere a few of PyTorch's own (:mod:`mmws.kernels.aten`). The
operators know no gradients: :mod:`mmws.functional` puts forward and backward together.

Shapes: ``rows`` is :math:`(O, \ldots)`, contiguous, a filter of ``n`` elements to a row, float32 or
float64; gains and shifts are :math:`(O)` and of the same dtype.
"""

from .operators import (
    normalize,
    normalize_backward,
    renormalize,
    restandardize,
    standardize,
    standardize_backward,
)

__all__ = [
    'normalize',
    'normalize_backward',
    'renormalize',
    'restandardize',
    'standardize',
    'standardize_backward',
]
