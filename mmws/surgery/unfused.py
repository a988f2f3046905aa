"""Methods of a model that fuse its layers for inference do nothing after a conversion.

RepVGG's, LeViT's, YOLO's and other blocks have a method such as ``fuse`` or ``reparameterize``
that multiplies filters by what Batch Normalization does in evaluation. There is no such
normalization after a conversion, or the stored filter is not the one that the layer computes
with. Left as it is, the model computes the same.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Collection
from typing import Any

from torch import nn

LOGGER = logging.getLogger(__name__)

_FUSING = re.compile(
    r'(fuse|fuse_convs|fuse_conv_bn|fuse_bn|reparam\w*|rep_param\w*|switch_to_deploy|merge_bn|'
    r'merge_kernel|turn_on_efficient_conv_bn_eval)'
)


def leave_unfused(model: nn.Module, changed: Collection[nn.Module]) -> None:
    """Replace the fusing methods of blocks that hold one of the ``changed`` layers."""
    for module in model.modules():
        if any(layer in changed for layer in module.modules()):
            for name in _fusing_methods(module):
                object.__setattr__(module, name, functools.partial(_stay, module))


def restore_fusing(model: nn.Module) -> None:
    """Undo :func:`leave_unfused`."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, functools.partial) and value.func is _stay:
                del vars(module)[name]


def _fusing_methods(module: nn.Module) -> list[str]:
    """Return the methods that fuse by their name, and take no argument but flags."""
    found = []
    for name in dir(type(module)):
        if _FUSING.fullmatch(name) and inspect.isfunction(getattr(type(module), name)):
            parameters = list(inspect.signature(getattr(type(module), name)).parameters.values())
            if not any(_may_be_a_tensor(parameter) for parameter in parameters[1:]):
                found.append(name)
    return found


def _may_be_a_tensor(parameter: inspect.Parameter) -> bool:
    """Return whether a method takes feature maps by this parameter, as one that adds them up."""
    if parameter.kind is parameter.KEYWORD_ONLY:
        return parameter.default is parameter.empty
    if parameter.kind is parameter.VAR_KEYWORD:
        return False
    return not isinstance(parameter.default, (bool, int, float, str))  # *args has none


def _stay(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Return ``module`` as it is."""
    LOGGER.warning(
        '%s was converted by mmws and is left as it is: there is nothing to fuse, or '
        'mmws.fold(model) has to come first',
        type(module).__name__,
    )
    return module
