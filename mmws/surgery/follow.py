"""What else in a model knows about its layers, and has to follow when they change."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from mmws.config.tree import init_cfgs

from .conv_target import ConvTarget
from .libraries import conv_modules, is_normalization, loaded_functions
from .norm_target import NormTarget

Changed = dict[nn.Module, type[nn.Module]]  # layer -> its class before


def follow_in_conv_modules(
    changed: Changed, model: nn.Module, conv: ConvTarget | None, norm: NormTarget | None
) -> None:
    """Correct what MMCV's blocks remember about their layers."""
    blocks: list[Any] = [m for m in model.modules() if isinstance(m, conv_modules())]
    for block in blocks:
        if changed.keys().isdisjoint(block.children()):
            continue
        if block.conv in changed and conv is not None:
            block.conv_cfg = conv.config(block.conv)
        if block.norm in changed and norm is not None:
            after = block.order.index('norm') > block.order.index('conv')
            channels = block.out_channels if after else block.in_channels
            block.norm_cfg = norm.config_of(block.norm, channels)
        # It would fold running statistics into the stored weight.
        block.turn_on_efficient_conv_bn_eval(False)


def follow_in_init_cfgs(changed: Changed, model: nn.Module) -> None:
    """Have each ``init_cfg`` of MMEngine, which names layers by class, reach those it reached."""
    owners: list[Any] = [m for m in model.modules() if getattr(m, 'init_cfg', None)]
    for owner in owners:
        cfgs = owner.init_cfg
        pairs = {(changed[m], type(m)) for m in owner.modules() if m in changed}
        if isinstance(cfgs, dict):
            owner.init_cfg = _followed(cfgs, pairs)
        else:
            owner.init_cfg = [_followed(cfg, pairs) for cfg in cfgs]


def _followed(cfg: dict[str, Any], pairs: set[tuple[type, type]]) -> dict[str, Any]:
    if 'layer' not in cfg:
        return cfg
    names = [cfg['layer']] if isinstance(cfg['layer'], str) else list(cfg['layer'])

    def reached(cls: type) -> bool:  # as MMEngine's initializers decide it
        return not {cls.__name__, *(base.__name__ for base in cls.__bases__)}.isdisjoint(names)

    lost = {now.__name__ for before, now in pairs if reached(before) and not reached(now)}
    return {**cfg, 'layer': [*names, *sorted(lost)]}


def rename_norms(changed: Changed, model: nn.Module) -> None:
    """Rename norms whose name says their kind, where the parent keeps the name in an attribute."""
    for infer_abbr in loaded_functions('mmcv.cnn.bricks.norm', 'infer_abbr'):
        _rename_with(infer_abbr, changed, model)


def _rename_with(infer_abbr: Any, changed: Changed, model: nn.Module) -> None:
    for parent in model.modules():
        kept = [value for attribute, value in vars(parent).items() if _names_norm(attribute)]
        renamed = {}
        for name, child in parent.named_children():
            if name in kept and child in changed and is_normalization(child):
                before, now = infer_abbr(changed[child]), infer_abbr(type(child))
                new = now + name.removeprefix(before)
                if name.startswith(before) and not hasattr(parent, new):
                    renamed[name] = new
        if renamed:
            _rename_children(parent, renamed)


def _names_norm(attribute: str) -> bool:
    """Return whether an attribute holds the name of a norm, as in MMCV's and MMDetection's code.

    Another one, such as a kind of norm that the user asked for, may be equal to a name by chance.
    """
    return re.fullmatch(r'(\w+_)?norm\d*_name', attribute) is not None


def _rename_children(parent: nn.Module, renamed: dict[str, str]) -> None:
    # In their order, which is that of parameters in an optimizer.
    children = {renamed.get(name, name): child for name, child in parent._modules.items()}
    parent._modules.clear()
    parent._modules.update(children)
    for attribute, value in list(vars(parent).items()):
        if _names_norm(attribute) and isinstance(value, str) and value in renamed:
            setattr(parent, attribute, renamed[value])
    for cfg in init_cfgs(parent):
        overrides = cfg.get('override') or []
        for override in [overrides] if isinstance(overrides, dict) else overrides:
            override['name'] = renamed.get(override['name'], override['name'])
