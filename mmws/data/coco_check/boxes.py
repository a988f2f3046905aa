"""Check boxes against their images."""

from __future__ import annotations

import numpy as np

from .report import CocoReport

# A box may be a little over the edge by rounding, as in COCO itself.
_TOLERANCE = 1.0


def check_boxes(
    report: CocoReport, boxes: np.ndarray, areas: np.ndarray, limits: np.ndarray, ids: np.ndarray
) -> np.ndarray:
    """Report bad boxes; return which annotations MMDetection keeps, (N,) bool.

    Args:
        report: Gets the problems.
        boxes: (N, 4), as x, y, width, height in pixels.
        areas: ``area`` of the annotations, (N,).
        limits: Width and height of each box's image, (N, 2); infinite where that is not known.
        ids: Ids of the annotations, (N,).
    """
    low, sides = boxes[:, :2], boxes[:, 2:]
    high = low + sides
    empty = (sides <= 0).any(1)
    tiny = ~empty & (sides < 1).any(1)
    no_area = ~empty & ~tiny & (areas <= 0)
    outside = ~empty & ((high <= 0) | (low >= limits)).any(1)
    edge = _TOLERANCE
    over = ~empty & ~outside & ((low < -edge) | (high > limits + edge)).any(1)
    corners = over & are_corners(boxes, limits)
    far = over & ~corners & ((low < -limits) | (high > 2 * limits)).any(1)

    where = 'annotation ids '
    report.add('corner_boxes', ids[corners], where)
    report.add('far_boxes', ids[far], where)
    report.add('empty_boxes', ids[empty], where)
    report.add('tiny_boxes', ids[tiny], where)
    report.add(
        'tiny_boxes',
        ids[no_area],
        where,
        what="annotations with an 'area' of 0 or less",
        remedy="training drops them: write the mask's area, or the box's",
    )
    report.add('outside_boxes', ids[outside], where)
    report.add('partly_outside_boxes', ids[over & ~corners & ~far], where)
    return ~(empty | tiny | no_area | outside)


def are_corners(boxes: np.ndarray, limits: np.ndarray) -> bool:
    """Return whether boxes are x1, y1, x2, y2 rather than x, y, width, height.

    That is where all of them are inside their images by the first reading, and at least two, and a
    tenth, are over the right or lower edge by the second.

    Args:
        boxes: (N, 4), in pixels.
        limits: Width and height of each box's image, (N, 2).
    """
    low, other = boxes[:, :2], boxes[:, 2:]
    if not len(boxes) or not ((other > low) & (other <= limits + _TOLERANCE)).all():
        return False
    over = (low + other > limits + _TOLERANCE).any(1)
    return bool(over.sum() >= max(2, len(boxes) / 10))
