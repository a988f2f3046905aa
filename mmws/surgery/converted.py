"""The converted detector in a config: ``model = dict(type='mmws.Converted', ...)``."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from mmws.checkpoints import find_pretrained, lookup
from mmws.config.tree import dotted, init_cfgs, kind, value_at, walk
from mmws.registry import MODELS

from .conv_target import ConvTarget
from .conversion import convert
from .norm_target import NormTarget


@MODELS.register_module()
def Converted(
    model: dict[str, Any],
    conv: str | dict[str, Any] | None = 'WS',
    norm: str | dict[str, Any] | None = 'GN',
    **overrides: Any,
) -> nn.Module:
    """Build a model and convert it, ``type='mmws.Converted'`` in a config.

    On top of any config::

        model = dict(type='mmws.Converted', model={{_base_.model}}, conv='WS', norm='GN')

    What is built is the model itself, of its own class, and not a wrapper of it. Its pretrained
    weights are not loaded where they were trained in another form (:func:`weights_fit`), and where
    they are left out nothing is frozen; the log tells both. Weights that fit are named beside
    ``conv``, and so is whatever else is to differ from ``model``, as in any config that inherits::

        model = dict(
            type='mmws.Converted',
            model={{_base_.model}},
            backbone=dict(
                init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://jhu/resnet50_gn_ws')
            ),
        )

    Args:
        model: Config of the model as it is before.
        conv: As for :func:`mmws.convert`.
        norm: As for :func:`mmws.convert`.
        **overrides: Merged into ``model``. MMEngine itself hands on what the base config says
            in its ``model``, which is the same once more.

    Raises:
        ValueError: if ``conv``, ``norm`` or their arguments are unknown.
    """
    cfg, dropped = unconverted_config(dict(model=model, **overrides))
    for line in dropped:
        print_log(f'mmws.Converted: {line}', logger='current', level=logging.WARNING)
    built = MMENGINE_MODELS.build(cfg)
    convert(built, conv, norm)
    print_log(f'mmws.Converted:\n{built.conversion_report.summary()}', logger='current')
    return built


def unconverted_config(config: dict[str, Any]) -> tuple[ConfigDict, list[str]]:
    """Return the config of the model that is converted, and what was dropped from it, in words.

    Args:
        config: A config of :func:`Converted`, with its ``type`` or without.
    """
    ours = ('type', '_scope_', 'model', 'conv', 'norm')
    overrides = {k: v for k, v in config.items() if k not in ours}
    base = Config(dict(model=copy.deepcopy(config['model'])))
    cfg = copy.deepcopy(base)
    overrides = copy.deepcopy(overrides)
    own = {k: v for k, v in base.model.items() if k in ('type', '_scope_')}  # of every component
    if base.model.keys() <= {*own, *overrides}:
        # MMEngine handed on the whole: merged again, what later settings delete would come back.
        cfg.model = dict(overrides, **own)
    else:
        cfg.merge_from_dict(dict(model=overrides))
    forms = config.get('conv', 'WS'), config.get('norm', 'GN')
    dropped = list(_drop_pretrained(cfg.model, base.model, forms))
    return cfg.model, dropped


def weights_fit(
    checkpoint: str, conv: str | dict[str, Any] | None, norm: str | dict[str, Any] | None
) -> bool:
    """Return whether pretrained weights of a model serve it after a conversion too.

    They do if they were published for such layers, or if the norms stay and convolutions take over
    plain filters exactly.

    Args:
        checkpoint: As in ``init_cfg`` of the model before.
        conv: As for :func:`mmws.convert`.
        norm: As for :func:`mmws.convert`.
    """
    target = None if conv is None else ConvTarget.parse(conv)
    adopts = target is None or target.adopts_plain_weights()
    if norm is None and adopts:
        return True
    published = lookup(checkpoint)
    return (
        published is not None
        and (norm is None or NormTarget.parse(norm).name == published.norm)
        and (target is None or adopts or target.name == published.conv)
    )


def _drop_pretrained(
    model: dict[str, Any], base: dict[str, Any], forms: tuple[Any, Any]
) -> Iterator[str]:
    """Take out of ``model`` the pretrained weights that ``base`` names too; yield what was done."""
    for path, cfg in list(walk(model, ('model',), enter=lambda path, _: path[-1] != 'init_cfg')):
        base_cfg = value_at(base, path[1:])
        if not (isinstance(cfg, dict) and isinstance(base_cfg, dict)):
            continue
        backbone = cfg
        before = [
            c
            for c in pretrained_weights(base_cfg)
            if not weights_fit(str(c.get('checkpoint')), *forms)
        ]
        legacy = base_cfg.get('pretrained')
        if before and all(checkpoint in before for checkpoint in pretrained_weights(cfg)):
            cfg['init_cfg'] = [c for c in init_cfgs(cfg) if c not in before] or None
            checkpoint = before[0].get('checkpoint')
        elif (
            isinstance(legacy, str)
            and cfg.get('pretrained') == legacy
            and not weights_fit(legacy, *forms)
        ):
            # The form of MMDetection 2 and MMSegmentation, whose models hand it to their backbone.
            cfg['pretrained'] = None
            backbone = cfg['backbone'] if isinstance(cfg.get('backbone'), dict) else cfg
            checkpoint = legacy
        else:
            continue
        line = f'{dotted(path)} starts without {checkpoint}, trained in another form'
        if backbone.get('frozen_stages', -1) > -1:
            backbone['frozen_stages'] = -1
            line += '; its first stages are not frozen'
        fitting = _fitting_weights(backbone, *forms)
        yield line + (f'; {fitting} would fit' if fitting else '')


def _fitting_weights(backbone: dict[str, Any], conv: Any, norm: Any) -> str | None:
    """Return published weights for a backbone in the new form, None if there are none."""
    if norm is None:
        return None
    conv_name = None if conv is None else ConvTarget.parse(conv).name
    published = find_pretrained(backbone, conv_name, NormTarget.parse(norm).name)
    return None if published is None else published.checkpoint


def pretrained_weights(cfg: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the settings of a component's config that load weights."""
    return [c for c in init_cfgs(cfg) if kind(c) == 'Pretrained']
