r"""The maths of mmws: from the weight that a layer stores to the weight that it computes with.

Each weight function begins with its formula in a few lines of PyTorch:
:func:`~mmws.functional.standardize.standardize` (Weight Standardization, its BiT and its scaled
form) and :func:`~mmws.functional.normalize.normalize` (Weight Normalization). To add one, subclass
:class:`WeightFunction` and write ``__call__``; layers, training and evaluation then work. Override
``evaluate`` and ``gradients`` for speed.
"""

from .normalize import Normalize, normalize_weight
from .standardize import Standardize, standardize_weight
from .transposed import Transposed
from .weight_function import (
    Stored,
    WeightFunction,
    apply,
    apply_together,
    closed_form_applies,
)

__all__ = [
    'Normalize',
    'Standardize',
    'Stored',
    'Transposed',
    'WeightFunction',
    'apply',
    'apply_together',
    'closed_form_applies',
    'normalize_weight',
    'standardize_weight',
]
