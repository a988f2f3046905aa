"""Any model with other convolutions and norms: Weight Standardization with GN, by one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from .conv_target import ConvTarget, is_weighted_candidate
from .conversion_report import Change, ConversionReport, Unchanged
from .copying import copied
from .feeds import Feeds, find_feeds
from .follow import follow_in_conv_modules, follow_in_init_cfgs, rename_norms
from .frozen import thaw, warnings_of
from .libraries import (
    is_batch_norm,
    is_convolution,
    is_frozen_batch_norm,
    is_normalization,
    is_quantization,
)
from .norm_target import NormTarget
from .refusals import notes_on_fixed_parts, refuse_wrapped
from .selection import Selector, selected_layers
from .transaction import all_or_nothing
from .unfused import leave_unfused


def convert(
    model: nn.Module,
    conv: str | dict[str, Any] | None = 'WS',
    norm: str | dict[str, Any] | None = 'GN',
    *,
    inputs: Any = None,
    inplace: bool = True,
    skip: Selector | Iterable[Selector] | None = None,
    only: Selector | Iterable[Selector] | None = None,
) -> nn.Module:
    """Give convolutions a weight function and replace Batch Normalization.

    Every convolution and linear layer that feeds a normalization gets the weight function, and
    every batch normalization, synchronized or frozen, becomes ``norm``. Which layer does is found
    out by running the model once on a small input (:mod:`mmws.surgery.feeds`). The rest, such as
    prediction layers, stays plain.

    Layers stay the objects they are, with their parameters, hooks, device, dtype, mode and
    ``requires_grad``. Gains, offsets and eps of the norms stay, running statistics go.
    ``init_cfg`` of MMEngine goes on to reach the layers that it reached. Where a module keeps the
    name of its norm in an attribute such as ``norm_name`` or ``norm1_name``, as MMCV's and
    MMDetection's do, the norm is renamed as MMCV would name it (``bn1`` to ``gn1``), so that the
    state dict is that of the model built with such norms, and published weights fit.

    Batch Normalization that was frozen for want of a batch needs no freezing afterwards:
    ``norm_eval`` is turned off, and gains and offsets become trainable, except where the
    convolution before is frozen itself, as by ``frozen_stages``. Such a stage stays frozen, which
    is right only with weights trained in this form; the report says so.

    Args:
        model: Any model.
        conv: ``'WS'``; ``'AWS'`` or ``'WN'``, which keep the weights of the model: each layer
            computes at first what it did, by a gain and a shift of each filter
            (:class:`mmws.layers.AffineWeightStandardization`) or by a gain; ``'ScaledWS'``; or the
            registered name of a layer that has the weight function; or a config with such a
            ``type`` and further arguments. ``None`` leaves convolutions alone.
        norm: ``'GN'``, ``'BCN'``, ``'LN'`` or ``'IN'`` (both as GN: with one group, with one
            channel a group); or the registered name of a norm; or a config with such a ``type``.
            ``None`` leaves norms alone. Behind a global pooling or a linear layer, where a channel
            has one position, GN gets fewer groups than usual, of 16 channels at least.
        inputs: What to run the model with: a tuple of positional arguments, a dict of keyword
            arguments or a single argument. ``None``: small random inputs, which models of images,
            audio, text and graphs of the usual libraries take.
        inplace: Change ``model`` itself instead of a copy.
        skip: Layers that stay as they are: one or several of names of modules, which stand for all
            that is in them, patterns such as ``'backbone.*.downsample'``, compiled regular
            expressions, or functions of name and module.
        only: Layers beside which all others stay as they are; chosen in the same way.

    Returns:
        The converted model. Its attribute ``conversion_report`` is a :class:`ConversionReport`.

    Raises:
        ValueError: if ``conv``, ``norm`` or their arguments are unknown, ``skip`` or ``only`` name
            nothing, or ``inputs`` do not fit the model.
        TypeError: if ``model`` is a TorchScript module, or inside of a wrapper for distributed
            training or of ``torch.compile``.

    Nothing is changed if anything is raised.
    """
    refuse_wrapped(model)
    conv_target = None if conv is None else ConvTarget.parse(conv)
    norm_target = None if norm is None else NormTarget.parse(norm)
    if not inplace:
        model = copied(model)
    plan = _plan(model, conv_target, norm_target, inputs, _excluded(model, skip, only))
    with all_or_nothing(model):
        report = _apply(model, plan)
        report.earlier = _converted_before(model)
        vars(model)['conversion_report'] = report
    return model


def _converted_before(model: nn.Module) -> list[Change]:
    """Return the changes of convolutions that reports of the model, or of parts of it, tell of."""
    changes: dict[str, Change] = {}
    for place, module in model.named_modules():
        report = vars(module).get('conversion_report')
        if isinstance(report, ConversionReport):
            for change in (*report.earlier, *report.convs):
                name = '.'.join(part for part in (place, change.name) if part)
                changes.setdefault(name, replace(change, name=name))
    return [*changes.values()]


@dataclass
class _Plan:
    """What is going to happen to each layer."""

    conv: ConvTarget | None
    norm: NormTarget | None
    feeds: Feeds
    convs: dict[nn.Module, str | None] = field(default_factory=dict)  # -> why it stays
    norms: dict[nn.Module, str | None] = field(default_factory=dict)


def _excluded(
    model: nn.Module,
    skip: Selector | Iterable[Selector] | None,
    only: Selector | Iterable[Selector] | None,
) -> dict[nn.Module, str]:
    """Return the modules that the user excludes, and how."""
    excluded: dict[nn.Module, str] = {}
    if only is not None:
        chosen = selected_layers(model, 'only', only)
        excluded.update({m: 'not among only=' for m in model.modules() if m not in chosen})
    if skip is not None:
        excluded.update(dict.fromkeys(selected_layers(model, 'skip', skip), 'skipped by skip='))
    return excluded


def _plan(
    model: nn.Module,
    conv: ConvTarget | None,
    norm: NormTarget | None,
    inputs: Any,
    excluded: dict[nn.Module, str],
) -> _Plan:
    layers = {
        m: _why_not_conv(conv, excluded, m) for m in model.modules() if is_weighted_candidate(m)
    }
    _keep_shared_weights_alike(layers)
    norms = _norms(model, norm, excluded)
    counting = {m for m, reason in norms.items() if _normalizes(m, reason, conv)}
    # Without a target the layers matter as well: which norms they feed.
    candidates = [m for m, r in layers.items() if r is None or (conv is None and _has_weight(m))]
    feeds = find_feeds(model, inputs, candidates, counting)
    for layer, reason in layers.items():
        layers[layer] = reason or feeds.why_not(layer)
    _keep_shared_weights_alike(layers)
    if norm is not None:
        for layer, reason in norms.items():
            if reason is None and layer in feeds.weight_used_alone:
                reason = 'the model reads its parameters or statistics by itself'
            norms[layer] = reason or norm.why_not(layer, feeds.positions.get(layer))
    return _Plan(conv, norm, feeds, layers, norms)


def _why_not_conv(
    conv: ConvTarget | None, excluded: dict[nn.Module, str], layer: nn.Module
) -> str | None:
    if conv is None:
        return 'conv=None'
    return excluded.get(layer) or conv.why_not(layer)


def _keep_shared_weights_alike(layers: dict[nn.Module, str | None]) -> None:
    """Keep layers plain whose weight another layer holds that stays plain."""
    plain = {id(m.weight) for m, reason in layers.items() if reason is not None and _has_weight(m)}
    for layer, reason in layers.items():
        if reason is None and id(layer.weight) in plain:
            layers[layer] = 'shares its weight with a layer that stays plain'


def _has_weight(layer: nn.Module) -> bool:
    return layer._parameters.get('weight') is not None


def _norms(
    model: nn.Module, norm: NormTarget | None, excluded: dict[nn.Module, str]
) -> dict[nn.Module, str | None]:
    """Return the normalization layers, without those inside of others, and why they stay."""
    prepared = {m for owner in model.modules() if is_quantization(owner) for m in owner.modules()}
    inside: set[nn.Module] = set()
    norms: dict[nn.Module, str | None] = {}
    for module in model.modules():
        if module in inside or not is_normalization(module):
            continue
        inside.update(module.modules())
        if norm is None:
            norms[module] = 'norm=None'
        elif module in prepared:
            norms[module] = 'is prepared for quantization: convert the model before that'
        else:
            norms[module] = excluded.get(module) or norm.why_not(module)
    return norms


def _normalizes(norm: nn.Module, stays: str | None, conv: ConvTarget | None) -> bool:
    """Return whether a layer counts as a normalization whatever it does in evaluation.

    Batch Normalization does: it normalizes in training, or another norm takes its place. A frozen
    one that stays is a fixed map, behind which only a filter can be that keeps its own scale.
    """
    if not is_batch_norm(norm):
        return False
    if stays is None:
        return True
    if 'forward of its own' in stays:
        return False
    return not is_frozen_batch_norm(norm) or (conv is not None and conv.adopts_plain_weights())


# ---- The changes


def _apply(model: nn.Module, plan: _Plan) -> ConversionReport:
    names = {module: name for name, module in model.named_modules()}
    before = {id(parameter) for parameter in model.parameters()}
    report = ConversionReport(parameters_before=_count_parameters(model))
    classes = {module: type(module) for module in model.modules()}
    _change_convs(plan, names, report)
    _change_norms(plan, names, report)
    changed = {module: cls for module, cls in classes.items() if type(module) is not cls}
    follow_in_conv_modules(changed, model, plan.conv, plan.norm)
    follow_in_init_cfgs(changed, model)
    rename_norms(changed, model)
    leave_unfused(model, changed.keys())
    report.notes += [*thaw(changed, model), *warnings_of(changed, model)]
    new = [parameter for parameter in model.parameters() if id(parameter) not in before]
    report.notes += [*_notes(model, plan, report, names, len(new))]
    report.parameters_after = _count_parameters(model)
    return report


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _change_convs(plan: _Plan, names: dict[nn.Module, str], report: ConversionReport) -> None:
    first: dict[tuple[int, int], nn.Module] = {}  # of the layers with the same filters
    for layer, reason in plan.convs.items():
        before, name = type(layer).__name__, names[layer]
        if reason is None and plan.conv is not None:
            plan.conv.put_into(layer, first.setdefault(_filters_of(layer), layer))
            report.convs.append(Change(name, before, type(layer).__name__))
        elif is_convolution(layer) or layer in plan.feeds.norms:
            # A linear layer is nothing special unless a normalization follows.
            report.left.append(Unchanged(name, before, reason or 'conv=None'))


def _filters_of(layer: Any) -> tuple[int, int]:
    """Return what is equal for layers that hold the same weight and divide it into filters alike.

    The filters of a transposed convolution lie along another dimension, and group by group.
    """
    return id(layer.weight), layer.groups if getattr(layer, 'transposed', False) else 0


def _change_norms(plan: _Plan, names: dict[nn.Module, str], report: ConversionReport) -> None:
    for norm, reason in plan.norms.items():
        before, name = type(norm).__name__, names[norm]
        if reason is None and plan.norm is not None:
            feeders = [layer for layer, norms in plan.feeds.norms.items() if norm in norms]
            plan.norm.put_into(norm, feeders, plan.feeds.positions.get(norm))
            report.norms.append(Change(name, before, type(norm).__name__))
        else:
            report.left.append(Unchanged(name, before, reason or 'norm=None'))


def _notes(
    model: nn.Module,
    plan: _Plan,
    report: ConversionReport,
    names: dict[nn.Module, str],
    new_parameters: int,
) -> Iterator[str]:
    """Yield what the user should know beside."""
    known = {names[norm] for norm in plan.norms}
    for place, what in sorted(plan.feeds.functions.items()):
        if place not in known:
            yield f'{place or "the model"} normalizes by {what}, called as a function, and stays'
    for place, what in sorted(plan.feeds.functional_convs.items()):
        yield f'{place or "the model"} calls {what} with a parameter of its own, and stays'
    yield from notes_on_fixed_parts(model)
    if new_parameters:
        yield (
            f'{new_parameters} parameters are new: an optimizer that was made before does not '
            'hold them'
        )
    if plan.feeds.stopped_by is not None and not plan.feeds.complete(model):
        yield f'the traced run stopped early: {plan.feeds.stopped_by}'
    if not report.convs and not report.norms:
        yield 'nothing was changed: ' + (
            'no layer that can be changed feeds a normalization'
            if plan.norms or plan.feeds.norms
            else 'the model has no normalization (or it is fused into the convolutions)'
        )
