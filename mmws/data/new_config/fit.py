"""Fit a model's input and anchors to the sizes of images and objects."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmws.config.tree import kind, rewrite, value_at

from ..coco_check import CocoReport

# Smaller objects are enlarged to this side, in pixels, as far as the base's input allows: published
# detectors were trained on such, and FPN's finest level has one cell for 4 x 4 pixels.
_OBJECT_SIDE = 32
_MAX_ENLARGEMENT = 3
# A crop must hold whole objects, and not be as large as the images for nothing.
_CROP_PER_OBJECT = 3
_MAX_CROP = 640
_SMALL_OBJECT = 8  # pixels after resizing; what is smaller is hardly found


@dataclass
class Fit:
    """What was changed in the base for the data.

    Attributes:
        cfg: The base config.
        model: Settings to override in ``model``.
        pipelines: New pipelines by split: ``'train'``, ``'val'``.
        notes: What was chosen and why, one line each.
    """

    cfg: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    pipelines: dict[str, list] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def fit_to_data(cfg: dict[str, Any], report: CocoReport, new_anchors: bool) -> Fit:
    """Choose input scale or crop, and anchors, from the sizes in a report.

    Args:
        cfg: A base config of this project.
        report: On the training data.
        new_anchors: Whether anchors may change: not where weights of an RPN are loaded.
    """
    fit = Fit(cfg)
    if not report.object_sides or not report.sizes:
        return fit
    sides = np.array(report.sizes, np.float64)
    long, short = np.median(sides.max(1)), np.median(sides.min(1))
    small, typical, large = (report.object_sides[i] for i in (1, 2, 4))
    size = f'images of {long:.0f}x{short:.0f} and objects of {typical:.0f} pixels (medians)'
    factor = 1.0
    steps = {kind(step): step for step in _pipeline(cfg, 'train')}
    if 'RandomCrop' in steps:
        base_crop = steps['RandomCrop']['crop_size']
        wanted = max(min(base_crop), _CROP_PER_OBJECT * large)
        crop = _ceil32(min(wanted, _MAX_CROP, sides.max()))
        if crop > min(base_crop):
            _change(fit, 'RandomCrop', crop_size=(crop, crop))
            fit.notes.append(f'{size}: training on crops of {crop}x{crop} pixels')
    elif isinstance(value_at(steps, ('Resize', 'scale')), (tuple, list)):
        base_long, base_short = max(steps['Resize']['scale']), min(steps['Resize']['scale'])
        factor = min(base_long / long, base_short / short)
        enough = min(max(_OBJECT_SIDE / small, 1.0), _MAX_ENLARGEMENT)
        if enough < factor:
            factor = enough
            scale = _ceil32(long * factor), _ceil32(short * factor)
            _change(fit, 'Resize', scale=scale)
            fit.notes.append(f'{size}: input resized to {scale[0]}x{scale[1]} pixels')
    if small * factor < _SMALL_OBJECT:
        fit.notes.append(
            f'{size}: a quarter of the objects have less than {_SMALL_OBJECT} pixels in the '
            'input; cut the images into tiles if they are not found'
        )
    if new_anchors:
        _fit_anchors(fit, small * factor, large * factor)
    return fit


def _pipeline(cfg: dict[str, Any], split: str) -> list:
    dataset = cfg[f'{split}_dataloader']['dataset']
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']
    return list(dataset.get('pipeline') or [])


def _change(fit: Fit, step: str, **settings: Any) -> None:
    """Put new settings of a transform into the pipelines of all splits that have it."""
    change_step(fit, step, lambda value: {**value, **settings})


def change_step(fit: Fit, step: str, new_step: Callable[[dict], dict]) -> None:
    """Replace a transform in the pipelines of all splits that have it."""

    def change(_: Any, value: Any) -> Any:
        return new_step(value) if kind(value) == step else value

    for split in ('train', 'val'):
        old = fit.pipelines.get(split) or _pipeline(fit.cfg, split)
        new = rewrite(old, change)
        if new != old:
            fit.pipelines[split] = new


def _fit_anchors(fit: Fit, small: float, large: float) -> None:
    """Choose the smallest power of 2 for the anchors so that they cover small to large objects."""
    for head, key in (('rpn_head', 'scales'), ('bbox_head', 'octave_base_scale')):
        generator = value_at(fit.cfg, ('model', head, 'anchor_generator')) or {}
        if kind(generator) != 'AnchorGenerator' or key not in generator:
            continue
        strides = generator['strides']
        # Anchors have sides of scale x stride, from the first level to the last.
        scale = 2 ** math.floor(math.log2(max(small, strides[0]) / strides[0]))
        while scale * strides[-1] < large / 2:
            scale *= 2
        scale = min(scale, 16)
        new = [scale] if key == 'scales' else scale
        if generator[key] != new:
            fit.model[head] = {'anchor_generator': {key: new}}
            fit.notes.append(
                f'objects of {small:.0f} to {large:.0f} pixels in the input (percentiles 25 and '
                f'95): anchors from {scale * strides[0]} to {scale * strides[-1]} pixels'
            )


def _ceil32(value: float) -> int:
    return 32 * math.ceil(value / 32)
