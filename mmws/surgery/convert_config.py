"""Write the config of a converted detector, with pretrained weights that fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmws.checkpoints import Published, find_pretrained
from mmws.config import read_config
from mmws.config.code import Code, assign, base_path, quoted
from mmws.config.tree import KeyPath, dotted, walk
from mmws.files import replacing

from .conv_target import ConvTarget
from .conversion import convert
from .conversion_report import ConversionReport
from .converted import pretrained_weights, unconverted_config, weights_fit
from .norm_target import NormTarget

MMDET_COCO_METRIC = ('CocoMetric', 'mmdet.CocoMetric')


@dataclass(frozen=True)
class ConvertedConfig:
    """A config that was written.

    Attributes:
        path: The file.
        report: What the conversion of its model changes.
        pretrained: Names of the weights that its backbones start from.
        from_scratch: Where in ``model`` the backbones are for which there are none, such as
            ``backbone``.
    """

    path: Path
    report: ConversionReport
    pretrained: list[str]
    from_scratch: list[str]


def convert_config(
    base: str | Path,
    out: str | Path,
    conv: str | None = 'WS',
    norm: str | None = 'GN',
    force: bool = False,
) -> ConvertedConfig:
    """Write a config that inherits from ``base`` and converts its model.

    Its backbone starts from the weights of the base if they fit such layers, else from the
    published ones that do, with the image normalization that these were trained with. Where there
    are none, it starts from scratch with no stage frozen. MMDetection's COCO metric becomes
    :class:`mmws.CocoMetric`, which has a value where nothing is detected. The model is built and
    converted once before the file is written.

    Args:
        base: Config of the model before, a path or ``mmdet::folder/name.py``.
        out: File to write.
        conv: A name that :func:`mmws.convert` takes, or ``None``.
        norm: A name that :func:`mmws.convert` takes, or ``None``.
        force: Overwrite ``out``.

    Raises:
        FileNotFoundError: if the base config is missing.
        FileExistsError: if ``out`` exists and ``force`` is not set.
        ValueError: if a name is unknown, or no model of the base can be built. Nothing is written.
    """
    out = Path(out)
    if out.suffix != '.py':
        raise ValueError(f'{out}: a config is a .py file')
    if out.exists() and not force:
        raise FileExistsError(f'{out} exists: give `force=True` to overwrite it, or another file')
    conv_name = None if conv is None else ConvTarget.parse(conv).name
    norm_name = None if norm is None else NormTarget.parse(norm).name
    cfg = read_config(base, name='base config')
    if not isinstance(cfg.get('model'), dict):
        raise ValueError(f'base config {base} has no model: take a complete training config')
    kept: list[str] = []
    found: dict[KeyPath, Published | None] = {}
    for path, backbone in _backbones(cfg.model):
        checkpoints = [str(c.get('checkpoint')) for c in pretrained_weights(backbone)]
        if checkpoints and all(weights_fit(c, conv, norm) for c in checkpoints):
            kept += checkpoints
        else:
            known = None if norm_name is None else find_pretrained(backbone, conv_name, norm_name)
            found[path] = known
    with replacing(out) as draft:
        draft.write_text(_config_text(cfg, base, out, conv, norm, found), encoding='utf-8')
        report = _build(Config.fromfile(draft), base)
    return ConvertedConfig(
        out,
        report,
        pretrained=[*kept, *(published.checkpoint for published in found.values() if published)],
        from_scratch=[dotted(path) for path, published in found.items() if not published],
    )


def _backbones(model: dict[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Yield where backbones are in the config of a model, and their configs."""

    def is_backbone(path: KeyPath, part: Any) -> bool:
        return path[-1:] == ('backbone',) and isinstance(part, dict)

    def enter(path: KeyPath, part: Any) -> bool:
        return isinstance(part, dict) and not is_backbone(path, part)

    yield from (found for found in walk(model, enter=enter) if is_backbone(*found))


def _build(cfg: Config, base: str | Path) -> ConversionReport:
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmdet'):
        # As `mmws.Converted` builds it, but the report goes to the caller, not into the log.
        unconverted = unconverted_config(cfg.model)[0]
        try:
            model = MODELS.build(unconverted)
        except Exception as error:  # models raise anything
            reason = f'{type(error).__name__}: {error}'
            message = f'the model of base config {base} cannot be built: {reason}'
            raise ValueError(message) from error
        convert(model, cfg.model.conv, cfg.model.norm)
        return model.conversion_report


def _config_text(
    cfg: Config,
    base: str | Path,
    out: Path,
    conv: str | None,
    norm: str | None,
    found: dict[KeyPath, Published | None],
) -> str:
    # MMEngine inherits from no folder such as gn+ws by the name of its package.
    by_name = '::' not in str(base) or re.match(r'\w+::\w+/', str(base))
    source = base_path(base if by_name else cfg.filename, out)
    options = [f'--{k} {v or "none"}' for k, v in (('conv', conv), ('norm', norm))]
    command = ' '.join([quoted(base), quoted(out), *options])
    model = {
        'type': 'mmws.Converted',
        'model': Code('{{_base_.model}}'),
        'conv': conv,
        'norm': norm,
    }
    notes = []
    for path, published in found.items():
        where, backbone = _follow(model, path), _follow(cfg.model, path)
        where.update(_start(backbone, published))
        owner = cfg.model if len(path) == 1 else {}
        preprocessor = owner.get('data_preprocessor') or {}
        if published is None:
            notes.append(
                f'# No weights are published for {dotted(path)} with these layers: it learns\n'
                '# from scratch, which takes a longer schedule.'
            )
        elif 'mean' in preprocessor:
            other = {
                k: v for k, v in published.data_preprocessor.items() if v != preprocessor.get(k)
            }
            model.update({'data_preprocessor': other} if other else {})
    # Only letters that cannot end the string that they stand in.
    name = re.sub(r'[^\w.+-]', '_', Path(source.rpartition('::')[2]).stem)
    lines = [
        f'r"""{name} with {_words(conv, norm)}.',
        '',
        'Made by',
        '',
        f'    python tools/convert_config.py {command}',
        '"""',
        '',
        assign('_base_', source),
        '',
        *notes,
        assign('model', model),
        '',
    ]
    for split in ('val', 'test'):
        evaluator = cfg.get(f'{split}_evaluator')
        ours = _with_own_metric(evaluator)
        if ours != evaluator:
            lines += [assign(f'{split}_evaluator', ours), '']
    if conv is not None and ConvTarget.parse(conv).name == 'WN':
        hook = {'type': 'mmws.WeightNormInitHook'}
        others = [Code('*_base_.custom_hooks')] if cfg.get('custom_hooks') else []
        lines += [
            '# Initialises the layers from the first batch.',
            assign('custom_hooks', [*others, hook]),
            '',
        ]
    return '\n'.join(lines)


def _with_own_metric(evaluator: Any) -> Any:
    """Return a config of metrics with MMDetection's COCO metric replaced by that of mmws.

    MMDetection's returns no number where nothing is detected, as in the first epochs of a training
    from scratch, and `save_best` then ends the training.
    """
    if isinstance(evaluator, (list, tuple)):
        return [_with_own_metric(metric) for metric in evaluator]
    name = evaluator.get('type') if isinstance(evaluator, dict) else None
    return {**evaluator, 'type': 'mmws.CocoMetric'} if name in MMDET_COCO_METRIC else evaluator


def _follow(cfg: Any, path: KeyPath) -> dict[str, Any]:
    """Return the dict at ``path``, which is made where it is missing."""
    for key in path:
        cfg = cfg.setdefault(key, {})
    return cfg


def _start(backbone: dict[str, Any], published: Published | None) -> dict[str, Any]:
    """Return the settings of a backbone that have it start rightly."""
    if published is not None:
        init_cfg = {'type': 'Pretrained', 'checkpoint': published.checkpoint}
        return (
            {'init_cfg': {'_delete_': True, **init_cfg}}
            if backbone.get('init_cfg')
            else {'init_cfg': init_cfg}
        )
    start: dict[str, Any] = {'init_cfg': None}
    if backbone.get('frozen_stages', -1) > -1:
        start['frozen_stages'] = -1
    return start


def _words(conv: str | None, norm: str | None) -> str:
    words = [f'{conv} convolutions' if conv else '', norm or '']
    return ' and '.join(word for word in words if word) or 'its own layers'
