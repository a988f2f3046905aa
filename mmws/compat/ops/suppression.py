"""Suppression of boxes and lines under the names of MMCV's compiled ops.

Greedy suppression decides box by box, so all ops but :func:`nms`, for which torchvision has a
kernel, run on the CPU, as MMCV's own do. The boxes are copied there once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from .dtypes import upcast

__all__ = ['line_nms_forward', 'nms', 'nms_match', 'softnms']


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Suppress greedily the boxes with IoU > ``iou_threshold``.

    Args:
        boxes: (N, 4), computed in float32 whatever the dtype, as MMCV does.
        scores: (N,); equal scores keep the order of the input.
        iou_threshold: In [0, 1].
        offset: 0 or 1; the width of a box is x2 − x1 + offset.

    Returns:
        Indices of the kept boxes by falling score, (≤ N,) int64.
    """
    # Adding the offset to the far corner adds it to the sides of boxes and of intersections alike.
    boxes = boxes.float() + boxes.new_tensor([0, 0, offset, offset], dtype=torch.float32)
    # MMCV compares two float32. Against a float64 threshold of 0.3, torchvision would suppress a
    # box whose IoU is 3/10, because float32(0.3) > 0.3.
    return torchvision_nms(boxes, scores.float(), float(np.float32(iou_threshold)))


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes by the kept one that suppresses them, at IoU ≥ ``iou_threshold``.

    Args:
        dets: (N, 5), x1, y1, x2, y2 and score; computed in float32, as MMCV does.
        iou_threshold: In [0, 1].

    Returns:
        For every kept box, by falling score, its index and those of the boxes that it suppresses.
    """
    array = _on_cpu(dets.float())
    order = np.argsort(-array[:, 4], kind='stable')
    boxes = array[order, :4]
    areas = _areas(boxes, 0)
    groups = []
    remaining: np.ndarray = np.arange(len(boxes))
    while len(remaining):
        kept, rest = remaining[0], remaining[1:]
        suppressed = _iou(boxes, areas, kept, rest, 0) >= np.float32(iou_threshold)
        groups.append([int(order[kept]), *order[rest[suppressed]].tolist()])
        remaining = rest[~suppressed]
    return groups


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., 2017, https://arxiv.org/abs/1704.04503, section 3).

    The first box is kept whatever its score; the others are dropped once their score is below
    ``min_score``. Among equal scores the box that comes first *in the current order* is next;
    that order is MMCV's: the next box changes places with the first remaining one, and a dropped
    box is replaced by the last remaining one.

    Args:
        boxes: (N, 4).
        scores: (N,).
        dets: (N, 5), filled with the kept boxes and their new scores; the rest is left alone.
        iou_threshold: Least IoU that lowers a score (naive and linear).
        sigma: Width of the Gaussian penalty, in IoU².
        min_score: Least score of a kept box.
        method: 0 naive (hard NMS), 1 linear (1 − IoU), 2 Gaussian (exp(−IoU² / sigma), eq. 3).
        offset: 0 or 1; the width of a box is x2 − x1 + offset.

    Returns:
        Indices of the kept boxes in the order of ``dets``, (≤ N,) int64.
    """
    # float64 scores of a float64 input, as a caller may expect; MMCV itself takes float32 alone.
    corners, decayed = _on_cpu(upcast(boxes)), _on_cpu(upcast(scores)).copy()
    number = decayed.dtype.type
    areas = _areas(corners, offset)
    order = np.arange(len(corners))
    done = 0
    while done < len(order):
        best = done + int(decayed[order[done:]].argmax())
        order[[done, best]] = order[[best, done]]
        top, rest = order[done], order[done + 1 :]
        iou = _iou(corners, areas, top, rest, offset)
        if method == 2:
            # Two boxes without area have IoU 0/0. They do not overlap, but MMCV makes a score NaN.
            decayed[rest] *= np.exp(-(np.nan_to_num(iou) ** 2) / number(sigma))
        else:
            penalty = 1 - iou if method == 1 else number(0)
            decayed[rest] *= np.where(iou >= number(iou_threshold), penalty, number(1))
        done += 1
        order = np.concatenate(
            [order[:done], _fill_from_the_end(rest, decayed[rest] >= number(min_score))]
        )
    kept = np.concatenate([corners[order], decayed[order, None]], axis=1)
    dets[: len(order)] = torch.from_numpy(kept).to(dets)
    return torch.from_numpy(order).to(boxes.device)


def line_nms_forward(boxes: Tensor, scores: Tensor, thresh: float, top_k: int) -> list[Tensor]:
    """Suppress lines (lanes) that are near to one with a higher score, as CLRNet does.

    The distance of two lines is the mean distance of their x coordinates over the rows that both
    cover (Zheng et al., 2022, https://arxiv.org/abs/2203.10350, official code ``nms_kernel.cu``).
    MMCV has this op on GPUs only, for S = 72. It compares the i-th line *of the input* with the
    lines that follow in order of the scores, which is greedy suppression for lines that are sorted
    by score. This op sorts them.

    Args:
        boxes: (N, 5 + S): column 2 is the first row as a fraction of S − 1 rows, column 4 the
            number of rows, and the last S columns are the x coordinates in the rows, of which the
            first is row 0.
        scores: (N,).
        thresh: A line is suppressed at a smaller distance, in the unit of the x coordinates.
        top_k: Largest number of lines that are kept.

    Returns:
        Indices of the kept lines by falling score, (N,) int64, followed by zeros; the number of
        kept lines, () int64; and for each line, (N,) int64, 1 + the position among the kept lines
        of the last one that is near to it, or of itself, and 0 for lines after the ``top_k``-th.
    """
    order = np.argsort(-_on_cpu(scores.float()), kind='stable')
    lines = _on_cpu(upcast(boxes))[order]
    columns, strips = lines.shape[1] - 5, lines.shape[1] - 6
    points = lines[:, 5:]
    start = (lines[:, 2] * strips + lines.dtype.type(0.5)).astype(np.int64)
    end = start + lines[:, 4].astype(np.int64) - 1

    removed = np.zeros(len(lines), dtype=bool)
    keep, parent = np.zeros(len(lines), dtype=np.int64), np.zeros(len(lines), dtype=np.int64)
    count = 0
    for line in range(len(lines)):
        if count == top_k:
            break
        if removed[line]:
            continue
        others = slice(line + 1, None)
        first = np.maximum(start[line], start[others])
        last = np.minimum(np.minimum(end[line], end[others]), columns - 1)
        row = np.arange(columns)
        shared = (row >= first[:, None]) & (row <= last[:, None])
        distance = np.where(shared, np.abs(points[line] - points[others]), 0).sum(1)
        near = (first >= 0) & (last >= first) & (distance < thresh * (last - first + 1))
        keep[count] = order[line]
        count += 1
        parent[order[line]] = count
        parent[order[others][near]] = count
        removed[others] |= near
    return [torch.as_tensor(value, device=boxes.device) for value in (keep, count, parent)]


def _on_cpu(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()


def _areas(boxes: np.ndarray, offset: int) -> np.ndarray:
    sides = boxes[:, 2:] - boxes[:, :2] + offset
    return sides[:, 0] * sides[:, 1]


def _iou(
    boxes: np.ndarray, areas: np.ndarray, first: int, others: np.ndarray, offset: int
) -> np.ndarray:
    """Return the IoU of one box with others, with MMCV's order of operations; NaN for 0/0."""
    low = np.maximum(boxes[first, :2], boxes[others, :2])
    high = np.minimum(boxes[first, 2:], boxes[others, 2:])
    sides = np.maximum(high - low + offset, 0)
    overlap = sides[:, 0] * sides[:, 1]
    with np.errstate(invalid='ignore', divide='ignore'):
        return overlap / (areas[first] + areas[others] - overlap)


def _fill_from_the_end(items: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Return the kept items, where the last ones stand in for the dropped ones, first hole first.

    This is what remains of a list in which a loop replaces each dropped item by the last one.
    """
    count = int(keep.sum())
    filled = items[:count].copy()
    filled[~keep[:count]] = items[count:][keep[count:]][::-1]
    return filled
