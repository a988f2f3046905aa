"""Choose the length of a training, its evaluations and its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

# A detector that starts from pre-trained weights needs some 24,000 images to settle on a small data
# set (120 epochs of 200 images); beyond 300 epochs a tiny one only overfits. `epochs_for` is the
# rule.
MIN_IMAGES_SEEN = 24_000

MAX_EPOCHS = 300

# A base that counts iterations knows nothing of the data. The narrow Faster R-CNN reached a box mAP
# of 0.33 after 400 steps, 2 epochs of 200 images of cell nuclei in each of two processes, and 0.45
# after 900.
MIN_EPOCHS = 5

# Time to evaluate on an image, compared with a training step on it: the forward pass is a third,
# and masks are pasted into images of full size and matched.
_COST_OF_EVALUATION = 0.5

# Evaluating and saving more often costs time and disk and tells nothing new.
MAX_EVALUATIONS = 12


def epochs_for(images: int, base_epochs: int) -> int:
    """Return how many epochs to train on ``images`` images.

    The base's number, or as many as show the detector ``MIN_IMAGES_SEEN`` images, up to
    ``MAX_EPOCHS``.
    """
    return max(base_epochs, min(math.ceil(MIN_IMAGES_SEEN / images), MAX_EPOCHS))


def evaluations_for(seen: int, val_images: int) -> int:
    """Return how often to evaluate, at most ``MAX_EVALUATIONS`` and in a tenth of the time.

    Args:
        seen: Images that the detector is trained on, counted each time.
        val_images: Images of an evaluation.
    """
    affordable = int(seen / (9 * _COST_OF_EVALUATION * max(val_images, 1)))
    return max(1, min(affordable, MAX_EVALUATIONS))


@dataclass
class Schedule:
    """Length of the training and what follows from it; counts ``unit``."""

    unit: str  # 'epochs' or 'iters'
    base_total: int
    total: int
    val_interval: int
    schedulers: list[dict]


def make_schedule(
    cfg: dict,
    images: int,
    val_images: int,
    images_per_gpu: int,
    epochs: int | None,
    iters: int | None,
) -> Schedule:
    """Fit the base's schedule to the user's data, or to the length that the user asked for."""
    unit = 'iters' if 'max_iters' in cfg['train_cfg'] else 'epochs'
    base_total = cfg['train_cfg'].get(f'max_{unit}')
    if not base_total:
        raise ValueError('the base has neither train_cfg.max_epochs nor train_cfg.max_iters')
    if iters and unit == 'epochs':
        raise ValueError('`iters` is for a base that counts iterations: give `epochs`')

    steps_per_epoch = math.ceil(images / images_per_gpu)
    if unit == 'epochs':
        total = epochs or epochs_for(images, base_total)
    else:
        least = max(base_total, MIN_EPOCHS * steps_per_epoch)
        total = epochs * steps_per_epoch if epochs else iters or least

    schedulers = []
    for scheduler in as_list(cfg.get('param_scheduler') or []):
        by_epoch = scheduler.get('by_epoch', True)
        if by_epoch == (unit == 'epochs'):
            scheduler = _scaled(scheduler, total / base_total)
        if not by_epoch and scheduler.get('begin') == 0 and 'end' in scheduler:
            tenth = total * steps_per_epoch // 10 if unit == 'epochs' else scheduler['end']
            scheduler = _with_end(scheduler, min(scheduler['end'], tenth))
        schedulers.append(scheduler)

    seen = total * images if unit == 'epochs' else total * images_per_gpu
    val_interval = math.ceil(total / evaluations_for(seen, val_images))
    if total == base_total:
        val_interval = max(val_interval, cfg['train_cfg'].get('val_interval', 1))
    return Schedule(unit, base_total, total, val_interval, schedulers)


def _scaled(scheduler: dict, factor: float) -> dict:
    """Return a parameter scheduler with its times multiplied by ``factor``."""
    scaled = dict(scheduler)
    for key in ('begin', 'end', 'T_max'):
        if isinstance(scheduler.get(key), int):
            scaled[key] = round(scheduler[key] * factor)
    if 'milestones' in scheduler:
        scaled['milestones'] = [max(1, round(m * factor)) for m in scheduler['milestones']]
    return scaled


def _with_end(warmup: dict, end: int) -> dict:
    # Below 2 iterations LinearLR never leaves its start factor.
    return {**warmup, 'end': max(2, end)}


def as_list(value: Any) -> list:
    """Return a list or tuple as a list, and anything else as a list of it alone."""
    return list(value) if isinstance(value, (list, tuple)) else [value]
