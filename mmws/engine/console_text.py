"""Scores and times as text for a terminal."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from numbers import Real
from typing import Any

_TASKS = {'bbox': 'box', 'segm': 'mask'}
_ROWS = 20  # of a table of classes
_OTHER_SCORES = 4


def duration(seconds: float) -> str:
    """Return a time as ``H:MM:SS``."""
    return str(timedelta(seconds=round(seconds)))


def shown_path(path: Any) -> str:
    """Return a path as short as it can be written from the current folder."""
    inside = os.path.relpath(path)
    return str(path) if inside.startswith('..') else inside


def one_line_scores(metrics: Mapping[str, Any]) -> str:
    """Return mAP and AP50 of boxes and masks, or the first scores where there is no mAP.

    Args:
        metrics: Scores by name, such as ``coco/bbox_mAP``.
    """
    by_name = {name.rpartition('/')[2]: value for name, value in metrics.items()}
    parts = []
    for name, value in by_name.items():
        if not name.endswith('mAP'):
            continue
        task = name[: -len('mAP')].rstrip('_')
        text = f'{_TASKS.get(task, task)} mAP {_score(value)}'.lstrip()
        half = by_name.get(f'{name}_50')
        parts.append(text if half is None else f'{text}, AP50 {_score(half)}')
    if not parts:
        numbers = [(n, v) for n, v in by_name.items() if isinstance(v, Real)]
        parts = [f'{name} {_score(float(value))}' for name, value in numbers[:_OTHER_SCORES]]
    return '   '.join(parts)


def class_table(scores: Sequence[Any]) -> list[str]:
    """Return the lines of a table by class.

    Args:
        scores: Rows of :class:`mmws.evaluation.coco_metric.ClassScore`. Of many classes the best
            and the worst are shown.
    """
    if not scores:
        return []
    tasks = list(scores[0].mean_ap)
    left_out = 0
    if len(scores) > _ROWS:
        first = tasks[-1]
        ranked = sorted(scores, key=lambda row: -_number(row.mean_ap[first]))
        left_out = len(ranked) - _ROWS
        scores = [*ranked[: _ROWS // 2], *ranked[-(_ROWS // 2) :]]
    rows = [['class', 'objects', *(f'{_TASKS.get(task, task)} mAP' for task in tasks)]]
    rows += [
        [row.name, str(row.objects), *(_score(row.mean_ap[task]) for task in tasks)]
        for row in scores
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        '  '.join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in rows
    ]
    if left_out:
        lines.insert(1 + _ROWS // 2, f'... and {left_out} more between these')
    return lines


def _number(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def _score(value: float) -> str:
    # pycocotools says -1 where there is nothing to find.
    return '–' if math.isnan(value) or value < 0 else f'{value:.3f}'
