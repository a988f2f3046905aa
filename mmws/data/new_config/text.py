"""The source text of a new config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmws.config.code import Code, assign, quoted
from mmws.config.tree import value_at

from ..coco_check import CocoReport
from ..palette import make_palette
from .dataset import coco_prefix, data_section
from .fit import Fit
from .model import classes_of_base, merged, model_override
from .schedule import MIN_EPOCHS, Schedule, as_list, make_schedule
from .start import Start


def command_line(options: dict[str, Any]) -> str:
    """Return the command line of ``tools/new_config.py`` with the options that have a value.

    Args:
        options: Values by the names of the options without dashes; the name of the positional
            argument is empty. True stands for an option without a value.
    """
    lines = []
    for name, values in options.items():
        if values is not None:
            words = [quoted(value) for value in as_list(values) if value is not True]
            lines.append(' '.join([f'--{name}', *words] if name else words))
    return ' \\\n        '.join(['python tools/new_config.py', *lines])


def config_text(
    fit: Fit,
    base: str,
    command: str,
    train: CocoReport,
    val: CocoReport | None,
    masks: bool,
    images_per_gpu: int,
    epochs: int | None,
    iters: int | None,
    start: Start,
    keep_empty: bool = False,
) -> tuple[str, str]:
    """Return the text of the config and the length of its training."""
    cfg = fit.cfg
    model = cfg['model']
    override = merged(model_override(model, classes_of_base(model)), fit.model)
    if start.load_from is not None and value_at(model, ('backbone', 'init_cfg')):
        # The detector's weights replace the backbone's, which need not be downloaded.
        override = merged(override, {'backbone': {'init_cfg': None}})
    data, images = data_section(fit, train, val, images_per_gpu, masks, keep_empty)
    val_images = val.images if val is not None else 0
    schedule = make_schedule(cfg, images, val_images, images_per_gpu, epochs, iters)
    metainfo = {'classes': Code('classes'), 'palette': make_palette(len(train.classes))}
    base_batch_size = (cfg.get('auto_scale_lr') or {}).get('base_batch_size', 16)
    # Only letters that cannot end the string that they stand in.
    name = re.sub(r'[^\w.+-]', '_', Path(base.rpartition('::')[2]).stem)
    parts = [
        f'r"""{name} for data of your own, {train.images} training images.',
        '',
        'Made by',
        '',
        f'    {command}',
        '',
        'and meant to be edited.',
        '"""',
        '',
        f'_base_ = {base!r}',
        '',
        "# In the order of 'categories' in the annotation files: MMDetection numbers them by it.",
        assign('classes', train.classes),
        assign('metainfo', metainfo),
        'num_classes = len(classes)',
        '# Every head counts the classes for itself.',
        assign('model', override),
        *_start_section(start),
        '',
        data,
        '',
        schedule_section(cfg, schedule, images, val is not None, given=bool(epochs or iters)),
        '',
        f"# The base's learning rate is for {base_batch_size} images a step. It scales by itself\n"
        '# to the images you take: GPUs x images per GPU.',
        assign('auto_scale_lr', {'enable': True, 'base_batch_size': base_batch_size}),
        '',
        *_checkpoint_section(cfg, schedule, masks, val is not None),
        '',
    ]
    return '\n'.join(parts), f'{schedule.total} {schedule.unit}'


def schedule_section(
    cfg: dict, schedule: Schedule, images: int, evaluates: bool, given: bool
) -> str:
    """Return the text that sets the length of the training and its learning rate."""
    unit, total, base_total = schedule.unit, schedule.total, schedule.base_total
    if given:
        why = f'{total} {unit} as asked for; the base has {base_total}.'
    elif unit == 'iters':
        why = "The base's number of iterations."
        if total > base_total:
            why = f'{MIN_EPOCHS} epochs of {images} images a process; the base has {base_total}.'
    else:
        why = (
            f'{images} images an epoch: {total} epochs show the detector {total * images:,} images '
            f'(the base has {base_total} epochs).'
        )
    lines = [
        f'# {why}',
        assign(
            'train_cfg',
            {f'max_{unit}': total} | ({'val_interval': schedule.val_interval} if evaluates else {}),
        ),
    ]
    if schedule.schedulers and schedule.schedulers != as_list(cfg['param_scheduler']):
        lines += [
            "# Steps at the same fractions of the training as the base's; warm-up by iterations.",
            assign('param_scheduler', schedule.schedulers),
        ]
    return '\n'.join(lines)


def _start_section(start: Start) -> list[str]:
    if start.load_from is None:
        return []
    return ['', *(f'# {line}' for line in start.comment), assign('load_from', start.load_from)]


def _checkpoint_section(cfg: dict, schedule: Schedule, masks: bool, evaluates: bool) -> list[str]:
    if not evaluates:
        hook = {'interval': max(1, schedule.total // 3), 'max_keep_ckpts': 3}
        return ['# Keeps three checkpoints.', assign('default_hooks', {'checkpoint': hook})]
    return [
        '# Keeps the last three checkpoints and the best one; the interval is that of validation.',
        assign('default_hooks', {'checkpoint': checkpoint_hook(cfg, schedule, masks)}),
    ]


def checkpoint_hook(cfg: dict, schedule: Schedule, masks: bool) -> dict:
    """Return settings that keep the last three checkpoints and the best."""
    evaluator = cfg['val_evaluator']
    prefix, metrics = coco_prefix(evaluator), ['segm'] if masks else ['bbox']
    if prefix is not None:
        metrics = [m for m in as_list(evaluator['metric']) if masks or m != 'segm']
    best = 'segm' if 'segm' in metrics else 'bbox'
    return {
        'interval': schedule.val_interval,
        'max_keep_ckpts': 3,
        'save_best': f'{prefix or "coco"}/{best}_mAP',
    }
