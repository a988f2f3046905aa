r"""The maths of mmws: from the weight that a layer stores to the weight that it convolves with.

Shapes: a filter is the part of a weight that makes one output channel. ``weight`` is
:math:`(O, \ldots)`: ``O`` filters of ``n`` elements each.
"""

import torch
from torch import Tensor


def standardize_weight(weight: Tensor, eps: float = 1e-5) -> Tensor:
    r"""Give every filter zero mean and unit variance (Weight Standardization).

    .. math:: \hat W_o = \frac{W_o - \mu_o}{\sigma_o + \epsilon}

    with :math:`\sigma_o` the unbiased standard deviation of the filter's ``n`` elements
    (`arXiv 1903.10520 <https://arxiv.org/abs/1903.10520>`_, eq. 4 to 6; :math:`\epsilon` outside
    the root as in the authors' code).

    Args:
        weight: :math:`(O, \ldots)`, floating point.
        eps: Added to the standard deviation.

    Returns:
        A tensor of the shape and dtype of ``weight``.
    """
    std, mean = torch.std_mean(weight.flatten(1), dim=1, keepdim=True)
    shape = (-1, *[1] * (weight.dim() - 1))
    return (weight - mean.view(shape)) / (std.view(shape) + eps)
