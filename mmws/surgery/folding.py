"""Back to plain layers: the weight function is applied once, and PyTorch's own layer remains."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod

from mmws.layers import BCN, GroupNorm, WeightFunctionMixin
from mmws.layers.recurrent import WeightNormRecurrent

from .copying import copied
from .libraries import conv_modules
from .torch_weight_norm import fold_torch_weight_norm
from .unfused import restore_fusing

LOGGER = logging.getLogger(__name__)

_WEIGHTED = (WeightFunctionMixin, WeightNormRecurrent)


def fold(model: nn.Module, inplace: bool = False) -> nn.Module:
    """Turn every layer of mmws into the plain layer that computes the same.

    Layers with PyTorch's own ``weight_norm``, as hook or as parametrization, become plain too.
    A layer with a weight function (WS, scaled and affine WS, WN, recurrent WN) becomes PyTorch's,
    torchvision's or MMCV's layer whose ``weight`` is the effective one; :class:`mmws.GroupNorm`
    becomes ``nn.GroupNorm``. It stays the same object, so that its name, other references to it,
    its hooks, bias, device, dtype, memory format, training mode and ``requires_grad`` stay;
    parameters that layers share are shared afterwards.

    The result is for inference, export and deployment. Trained further, it is a model with plain
    filters, and an optimizer of the model before holds parameters that are no longer in it.

    :class:`mmws.BCN` is two normalizations, for which there is no single plain layer: it stays.
    A warning in the log names what still needs mmws.

    Args:
        model: Any module, of which layers of mmws are a part or which is one.
        inplace: Change ``model`` itself instead of a copy.

    Returns:
        The folded model.

    Raises:
        ValueError: if a layer is of a subclass with a ``forward`` of its own, which the plain layer
            would not do, or if pruning or a parametrization makes what it stores; nothing is
            changed then.
    """
    if not inplace:
        model = copied(model)
    layers = [m for m in model.modules() if _is_foldable(m)]
    names = {module: name for name, module in model.named_modules()}
    for layer in layers:
        _require_stored(layer, names[layer])
    plain = [plain_class(type(layer), names[layer]) for layer in layers]

    parameters = _Parameters()
    for layer, cls in zip(layers, plain):
        if isinstance(layer, _WEIGHTED):
            _fold_weights(layer, parameters)
        _become(layer, cls)
    fold_torch_weight_norm(model)
    restore_fusing(model)
    _follow(model, {*layers})

    vars(model).pop('conversion_report', None)
    rest = needing_mmws(model)
    if rest:
        LOGGER.warning(
            'mmws.fold: no plain layer does the same as these, which still need mmws: %s',
            ', '.join(f'{name or "the model"} ({cls})' for name, cls in rest.items()),
        )
    return model


def plain_class(cls: type[nn.Module], name: str = '') -> type[nn.Module]:
    """Return the class outside of mmws that a layer's class is made from.

    Args:
        cls: Class of a weighted layer, or :class:`mmws.GroupNorm`, or derived from one of these.
        name: What to call the layer in an error.

    Raises:
        ValueError: if ``cls`` has a ``forward`` that neither mmws nor the plain class wrote.
    """
    mro = cls.__mro__
    last = max(i for i, c in enumerate(mro) if issubclass(c, (*_WEIGHTED, GroupNorm)))
    for c in mro[: last + 1]:
        if 'forward' in vars(c) and not c.__module__.startswith('mmws.'):
            raise ValueError(
                f'cannot fold {name or "the layer"}: {c.__qualname__} has a forward of its own, '
                f'which {mro[last + 1].__qualname__} does not do'
            )
    return mro[last + 1]


def own_arguments(cls: type[nn.Module]) -> set[str]:
    """Return the arguments of a layer of mmws that its plain class does not take, such as eps."""
    plain = plain_class(cls)
    own: set[str] = set()
    for c in cls.__mro__[: cls.__mro__.index(plain)]:
        if '__init__' in vars(c):
            own |= {*inspect.signature(vars(c)['__init__']).parameters}
    return own - {*inspect.signature(plain).parameters, 'self'}


def needing_mmws(model: nn.Module) -> dict[str, str]:
    """Return name and class of the modules of ``model`` that are mmws's own."""
    return {
        name: type(module).__qualname__
        for name, module in model.named_modules()
        if type(module).__module__.partition('.')[0] == 'mmws'
    }


def _require_stored(layer: Any, name: str) -> None:
    """Raise if a layer does not store what a plain layer takes over, but makes it at each pass.

    Raises:
        ValueError: if pruning, a parametrization or a hook of ``torch.nn.utils`` makes it.
    """
    parametrized = [*layer.parametrizations] if parametrize.is_parametrized(layer) else []
    made = [n for n in _replaced(layer) if n not in layer._parameters and n not in layer._buffers]
    if not parametrized and not made:
        return
    tensor = (parametrized or made)[0]
    pruning = [h for h in layer._forward_pre_hooks.values() if isinstance(h, BasePruningMethod)]
    if parametrized:
        by = 'a parametrization'
        fix = f'call torch.nn.utils.parametrize.remove_parametrizations(layer, {tensor!r})'
    elif tensor in [hook._tensor_name for hook in pruning]:
        by, fix = 'pruning', f'call torch.nn.utils.prune.remove(layer, {tensor!r})'
    else:
        by, fix = 'something else, such as a hook,', 'take that off the layer'
    raise ValueError(
        f'cannot fold {name or "the layer"} ({type(layer).__qualname__}): {by} makes its {tensor}, '
        f'which is no parameter: {fix} first'
    )


def _replaced(layer: Any) -> tuple[str, ...]:
    """Return the names of what :func:`_fold_weights` replaces or takes away."""
    if isinstance(layer, WeightNormRecurrent):
        names = [*layer.matrix_names()]
        return (*names, *(f'{name}_g' for name in names))
    return ('weight', *layer.beside_weight) if isinstance(layer, WeightFunctionMixin) else ()


class _Parameters:
    """The parameters made so far, so that what was shared is shared again."""

    def __init__(self) -> None:
        self._made: dict[nn.Parameter, list[nn.Parameter]] = {}

    def make(self, stored: nn.Parameter, value: Tensor) -> nn.Parameter:
        """Return a parameter of that value in place of ``stored``.

        A new one, for ``stored`` may serve a plain layer too; the one made before, where the same
        function of the same parameter was asked for.
        """
        made = self._made.setdefault(stored, [])
        for parameter in made:
            if torch.equal(parameter, value):
                return parameter
        data = torch.empty_like(stored).copy_(value)  # in the memory format of the stored one
        made.append(nn.Parameter(data, requires_grad=stored.requires_grad))
        return made[-1]


@torch.no_grad()
def _fold_weights(layer: Any, parameters: _Parameters) -> None:
    if isinstance(layer, WeightNormRecurrent):
        weights = layer.effective_weights()
        beside: tuple[str, ...] = tuple(f'{name}_g' for name in weights)
    else:
        weights, beside = {'weight': layer.effective_weight()}, layer.beside_weight
    for name, value in weights.items():
        # Not by setattr, which takes a rescaled filter of WN for the work of a fusing tool.
        layer.register_parameter(name, parameters.make(getattr(layer, name), value))
    for name in beside:
        delattr(layer, name)


def _become(layer: nn.Module, cls: type[nn.Module]) -> None:
    """Make ``layer`` one of ``cls``, of which its own class is a subclass."""
    for name in own_arguments(type(layer)):
        vars(layer).pop(name, None)
    layer.__class__ = cls


def _follow(model: nn.Module, folded: set[nn.Module]) -> None:
    """Take away what the rest of the model remembers about layers of mmws."""
    blocks: list[Any] = [m for m in model.modules() if isinstance(m, conv_modules())]
    for module in model.modules():
        vars(module).pop('conversion_report', None)
    for block in blocks:
        if block.conv in folded:
            block.conv_cfg = dict(type=type(block.conv))
        if block.norm in folded:
            norm = block.norm
            block.norm_cfg = dict(type=type(norm), num_groups=norm.num_groups, eps=norm.eps)


def _is_foldable(module: nn.Module) -> bool:
    if isinstance(module, _WEIGHTED):
        return True
    return isinstance(module, GroupNorm) and not isinstance(module, BCN)
