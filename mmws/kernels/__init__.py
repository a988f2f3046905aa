r"""Weight functions of many layers as single operators of PyTorch's dispatcher.

Importing this package defines ``torch.ops.mmws.*``. With Triton on a GPU each operator is one
kernel over all filters (:mod:`mmws.kernels.gpu`), elsewhere a few of PyTorch's own
(:mod:`mmws.kernels.aten`). The operators know no gradients: :mod:`mmws.functional` puts forward and
backward together.
"""

from .operators import (
    normalize,
    normalize_backward,
    standardize,
    standardize_backward,
    standardize_one,
    standardize_one_backward,
)

__all__ = [
    'normalize',
    'normalize_backward',
    'standardize',
    'standardize_backward',
    'standardize_one',
    'standardize_one_backward',
]
