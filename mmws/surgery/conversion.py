"""Any model with other convolutions and norms: Weight Standardization with GN, by one call."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from mmws.config.tree import init_cfgs, kind
from mmws.layers import WeightFunctionMixin

from .conversion_report import Change, ConversionReport, Left
from .feeds import CONVOLUTIONS, Feeds, find_feeds, is_normalization
from .forms import NormForm, WeightForm
from .mmcv_classes import ConvModule, infer_abbr


def convert(
    model: nn.Module,
    conv: str | dict[str, Any] | None = 'WS',
    norm: str | dict[str, Any] | None = 'GN',
    *,
    inputs: Any = None,
    inplace: bool = True,
) -> nn.Module:
    """Give convolutions a weight function and replace Batch Normalization.

    Every convolution that feeds a normalization gets the weight function, and every batch
    normalization, synchronized or frozen, becomes ``norm``. Which convolution does is found out
    by running the model once on a small input (:func:`mmws.surgery.feeds.find_feeds`). The rest,
    such as prediction layers, stays plain.

    Layers stay the objects they are, with their parameters, hooks, device, dtype, mode and
    ``requires_grad``. Gains and offsets of the norms are kept, running statistics dropped.
    ``init_cfg`` of MMEngine goes on to reach the layers that it reached. Where a module keeps the
    name of its norm in an attribute, as MMCV's and MMDetection's do, the norm is renamed as MMCV
    would name it (``bn1`` to ``gn1``), so that the state dict is that of the model built with such
    norms, and published weights fit.

    Batch Normalization that was frozen for want of a batch needs no freezing afterwards:
    ``norm_eval`` is turned off, and gains and offsets become trainable, except where the
    convolution before is frozen itself, as by ``frozen_stages``. Such a stage stays frozen, which
    is right only with weights trained in this form; the report says so.

    Args:
        model: Any model.
        conv: ``'WS'``, ``'WN'``, ``'AWS'`` (:class:`mmws.ConvAWS2d`) or ``'ScaledWS'``; or the
            registered name of a layer that has the weight function; or a config with such a
            ``type`` and further arguments. ``None`` leaves convolutions alone.
        norm: ``'GN'``, ``'BCN'``, ``'LN'`` or ``'IN'`` (both as GN: with one group, with one
            channel a group); or the registered name of a norm; or a config with such a ``type``.
            ``None`` leaves norms alone.
        inputs: What to run the model with: a tuple of positional arguments, a dict of keyword
            arguments or a single argument. ``None``: small random images, which models of images
            and MMDetection's detectors take.
        inplace: Change ``model`` itself instead of a copy.

    Returns:
        The converted model. Its attribute ``conversion_report`` is a :class:`ConversionReport`.

    Raises:
        ValueError: if ``conv``, ``norm`` or their arguments are unknown, or ``inputs`` do not fit
            the model. Nothing is changed then.
    """
    weight_form = None if conv is None else WeightForm.of(conv)
    norm_form = None if norm is None else NormForm.of(norm)
    feeds = find_feeds(model, inputs)
    if not inplace:
        model, feeds = _copied(model, feeds)

    report = ConversionReport(parameters_before=_count_parameters(model))
    classes = {module: type(module) for module in model.modules()}
    _change_convs(model, weight_form, feeds, report)
    _change_norms(model, norm_form, feeds, report)
    changed = {module: cls for module, cls in classes.items() if type(module) is not cls}
    _follow_in_conv_modules(changed, model, weight_form, norm_form)
    _follow_in_init_cfgs(changed, model)
    _rename_norms(changed, model)
    report.notes += [*_thaw(changed, model), *_warnings(changed, model)]
    if feeds.stopped_by is not None and not feeds.complete(model):
        report.notes.append(f'the traced run stopped early: {feeds.stopped_by}')
    report.parameters_after = _count_parameters(model)
    model.conversion_report = report
    return model


def _copied(model: nn.Module, feeds: Feeds) -> tuple[nn.Module, Feeds]:
    """Return a deep copy of ``model``, and ``feeds`` for it."""
    memo: dict[int, Any] = {}
    return copy.deepcopy(model, memo), copy.deepcopy(feeds, memo)


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# ---- Convolutions and norms


def _change_convs(
    model: nn.Module, form: WeightForm | None, feeds: Feeds, report: ConversionReport
) -> None:
    convs = {m: name for name, m in model.named_modules() if isinstance(m, CONVOLUTIONS)}
    reasons = {
        m: 'conv=None' if form is None else feeds.why_not(m) or form.why_not(m) for m in convs
    }
    # One weight cannot be standardized in one layer and plain in another.
    plain = {id(m.weight) for m, reason in reasons.items() if reason is not None}
    first: dict[int, nn.Module] = {}  # of the layers that hold the same weight
    for conv, name in convs.items():
        before, reason = type(conv).__name__, reasons[conv]
        if reason is None and id(conv.weight) in plain:
            reason = 'shares its weight with a convolution that stays plain'
        if reason is None:
            form.put_into(conv, first.setdefault(id(conv.weight), conv))
            report.convs.append(Change(name, before, type(conv).__name__))
        else:
            report.left.append(Left(name, before, reason))


def _change_norms(
    model: nn.Module, form: NormForm | None, feeds: Feeds, report: ConversionReport
) -> None:
    inside: set[nn.Module] = set()  # of other norms
    for name, norm in list(model.named_modules()):
        if norm in inside or not is_normalization(norm):
            continue
        inside.update(norm.modules())
        before = type(norm).__name__
        reason = 'norm=None' if form is None else form.why_not(norm)
        if reason is None:
            form.put_into(norm, [conv for conv, norms in feeds.norms.items() if norm in norms])
            report.norms.append(Change(name, before, type(norm).__name__))
        else:
            report.left.append(Left(name, before, reason))


# ---- What else in the model knows about its layers

_Changed = dict[nn.Module, type[nn.Module]]  # layer -> its class before


def _follow_in_conv_modules(
    changed: _Changed, model: nn.Module, conv: WeightForm | None, norm: NormForm | None
) -> None:
    """Correct what MMCV's blocks remember about their layers."""
    for block in model.modules():
        if not isinstance(block, ConvModule) or changed.keys().isdisjoint(block.children()):
            continue
        if block.conv in changed:
            block.conv_cfg = conv.config(block.conv)
        if block.norm in changed:
            after = block.order.index('norm') > block.order.index('conv')
            block.norm_cfg = norm.config(block.out_channels if after else block.in_channels)
        # It would fold running statistics into the stored weight.
        block.turn_on_efficient_conv_bn_eval(False)


def _follow_in_init_cfgs(changed: _Changed, model: nn.Module) -> None:
    """Have each ``init_cfg`` of MMEngine, which names layers by class, reach those it reached."""
    for owner in model.modules():
        cfgs = getattr(owner, 'init_cfg', None)
        if not cfgs:
            continue
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


def _rename_norms(changed: _Changed, model: nn.Module) -> None:
    """Rename norms whose name says their kind, where the parent keeps the name in an attribute."""
    for parent in model.modules():
        kept = [value for value in vars(parent).values() if isinstance(value, str)]
        renamed = {}
        for name, child in parent.named_children():
            if name in kept and child in changed and is_normalization(child):
                before, now = infer_abbr(changed[child]), infer_abbr(type(child))
                new = now + name.removeprefix(before)
                if name.startswith(before) and not hasattr(parent, new):
                    renamed[name] = new
        if renamed:
            _rename_children(parent, renamed)


def _rename_children(parent: nn.Module, renamed: dict[str, str]) -> None:
    # In their order, which is that of parameters in an optimizer.
    children = {renamed.get(name, name): child for name, child in parent._modules.items()}
    parent._modules.clear()
    parent._modules.update(children)
    for attribute, value in list(vars(parent).items()):
        if isinstance(value, str) and value in renamed:
            setattr(parent, attribute, renamed[value])
    for cfg in init_cfgs(parent):
        overrides = cfg.get('override') or []
        for override in [overrides] if isinstance(overrides, dict) else overrides:
            override['name'] = renamed.get(override['name'], override['name'])


# ---- Frozen Batch Normalization


def _thaw(changed: _Changed, model: nn.Module) -> Iterator[str]:
    """Undo MMDetection's ``norm_eval``; yield a note on each."""
    for name, owner in model.named_modules():
        if not getattr(owner, 'norm_eval', False):
            continue
        norms = [m for m in owner.modules() if m in changed and is_normalization(m)]
        filters = [m for m in owner.modules() if m in changed and not is_normalization(m)]
        if not norms and any(not m.adopts_plain_weight() for m in filters):
            yield (
                f'{name or "model"}.norm_eval keeps statistics of the filters before: turn it off'
            )
        if norms:
            owner.norm_eval = False
            for parent in owner.modules():
                for child in parent.children():
                    if child in norms:
                        child.train(parent.training)
            yield f'{name or "model"}.norm_eval is off: there are no statistics to freeze'


def _warnings(changed: _Changed, model: nn.Module) -> Iterator[str]:
    """Yield what would go wrong with weights of the model before."""
    frozen = [
        m for m in changed if isinstance(m, WeightFunctionMixin) and not m.weight.requires_grad
    ]
    if frozen:
        stages = [
            f'{name or "model"}.frozen_stages={module.frozen_stages}'
            for name, module in model.named_modules()
            if getattr(module, 'frozen_stages', -1) > -1
        ]
        why = f' ({", ".join(stages)})' if stages else ''
        yield (
            f'{len(frozen)} of the changed convolutions are frozen{why}: right with weights that '
            'were trained in this form, and with no others'
        )
    for name, module in model.named_modules():
        for cfg in init_cfgs(module):
            if kind(cfg) == 'Pretrained' and not changed.keys().isdisjoint(module.modules()):
                yield (
                    f'{name or "model"}.init_cfg loads {cfg.get("checkpoint")}: right if these '
                    'weights were trained in this form'
                )
