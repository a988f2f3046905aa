"""The source text of a new config."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from mmws.config.code import Code, assign

from ..coco_check import CocoReport
from ..palette import make_palette
from .dataset import coco_prefix, data_section
from .model import classes_of_base, model_override
from .schedule import Schedule, as_list, make_schedule


def command_line(arguments: dict[str, Any]) -> str:
    """Return the command line of the tool with those arguments that have a value."""
    lines = [
        ' '.join([f'--{name.replace("_", "-")}', *(shlex.quote(str(v)) for v in as_list(values))])
        for name, values in arguments.items()
        if values is not None
    ]
    return ' \\\n        '.join(['python tools/new_config.py', *lines])


def config_text(
    cfg: dict,
    base: str,
    command: str,
    train: CocoReport,
    val: CocoReport,
    masks: bool,
    images_per_gpu: int,
    epochs: int | None,
    iters: int | None,
) -> tuple[str, str]:
    """Return the text of the config and the length of its training."""
    model = cfg['model']
    override = model_override(model, classes_of_base(model))
    data, images = data_section(cfg, train, val, images_per_gpu, masks)
    schedule = make_schedule(cfg, images, images_per_gpu, epochs, iters)
    metainfo = {'classes': Code('classes'), 'palette': make_palette(len(train.classes))}
    base_batch_size = (cfg.get('auto_scale_lr') or {}).get('base_batch_size', 16)
    name = Path(base.rpartition('::')[2]).stem
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
        '',
        data,
        '',
        schedule_section(cfg, schedule, images, given=bool(epochs or iters)),
        '',
        f"# The base's learning rate is for {base_batch_size} images a step. It scales by itself\n"
        '# to the images you take: GPUs x images per GPU.',
        assign('auto_scale_lr', {'enable': True, 'base_batch_size': base_batch_size}),
        '',
        '# Keeps the last three checkpoints and the best one; the interval is that of validation.',
        assign('default_hooks', {'checkpoint': checkpoint_hook(cfg, schedule, masks)}),
        '',
    ]
    return '\n'.join(parts), f'{schedule.total} {schedule.unit}'


def schedule_section(cfg: dict, schedule: Schedule, images: int, given: bool) -> str:
    """Return the text that sets the length of the training and its learning rate."""
    unit, total, base_total = schedule.unit, schedule.total, schedule.base_total
    if given:
        why = f'{total} {unit} as asked for; the base has {base_total}.'
    elif unit == 'iters':
        why = "The base's number of iterations."
    else:
        why = (
            f'{images} images an epoch: {total} epochs show the detector {total * images:,} images '
            f'(the base has {base_total} epochs).'
        )
    lines = [
        f'# {why}',
        assign('train_cfg', {f'max_{unit}': total, 'val_interval': schedule.val_interval}),
    ]
    if schedule.schedulers and schedule.schedulers != as_list(cfg['param_scheduler']):
        lines += [
            "# Steps at the same fractions of the training as the base's; warm-up by iterations.",
            assign('param_scheduler', schedule.schedulers),
        ]
    return '\n'.join(lines)


def checkpoint_hook(cfg: dict, schedule: Schedule, masks: bool) -> dict:
    """Return settings that keep the last three checkpoints and the best."""
    evaluator = cfg['val_evaluator']
    prefix, metrics = coco_prefix(evaluator), ['segm'] if masks else ['bbox']
    if prefix is not None:
        metrics = as_list(evaluator['metric'])
    best = 'segm' if 'segm' in metrics else 'bbox'
    return {
        'interval': schedule.val_interval,
        'max_keep_ckpts': 3,
        'save_best': f'{prefix or "coco"}/{best}_mAP',
    }
