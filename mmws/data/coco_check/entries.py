"""Check the entries of an annotation file: fields, boxes, masks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .report import CocoReport


def split_sound(entries: list, is_sound: Callable[[Any], bool]) -> tuple[list[dict], list[int]]:
    """Split ``entries`` into the sound ones and the indices of the others."""
    bad = [i for i, entry in enumerate(entries) if not is_sound(entry)]
    return [e for e in entries if is_sound(e)] if bad else entries, bad


def _is_number(value: Any) -> bool:
    # NaN, which Python's JSON reader lets pass, compares as false. An integer may have more digits
    # than fit into a float.
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max


def is_sound_image(image: Any) -> bool:
    """Return whether an image has all fields that MMDetection reads, with values of their types."""
    return (
        isinstance(image, dict)
        and isinstance(image.get('id'), (int, str))
        and isinstance(image.get('file_name'), str)
        and all(_is_number(image.get(side)) and image[side] > 0 for side in ('height', 'width'))
    )


def is_sound_annotation(annotation: Any) -> bool:
    """Return whether an annotation has all fields that MMDetection reads, with sound values."""
    if not isinstance(annotation, dict):
        return False
    box = annotation.get('bbox')
    return (
        all(isinstance(annotation.get(k), (int, str)) for k in ('id', 'image_id', 'category_id'))
        and isinstance(box, list)
        and len(box) == 4
        and all(map(_is_number, box))
        and _is_number(annotation.get('area'))
    )


def is_sound_category(category: Any) -> bool:
    """Return whether a category has an id and a name."""
    return (
        isinstance(category, dict)
        and isinstance(category.get('id'), (int, str))
        and isinstance(category.get('name'), str)
    )


def check_boxes(
    report: CocoReport,
    annotations: list[dict],
    images: list[dict],
    ids: np.ndarray,
    image_row: np.ndarray,
) -> np.ndarray:
    """Report bad boxes; return which of the N annotations MMDetection keeps, ``(N,)`` bool."""
    boxes = np.array([a['bbox'] for a in annotations], dtype=np.float64).reshape(-1, 4)
    area = np.array([a['area'] for a in annotations], dtype=np.float64)
    sizes = np.array([(i['width'], i['height']) for i in images], dtype=np.float64).reshape(-1, 2)
    # Boxes of unknown images have no edge to be outside of.
    limit = np.full((len(boxes), 2), np.inf)
    known = image_row >= 0
    limit[known] = sizes[image_row[known]]

    low, wh = boxes[:, :2], boxes[:, 2:]
    high = low + wh
    empty = (wh <= 0).any(1)
    tiny = ~empty & ((wh < 1).any(1) | (area <= 0))
    outside = ~empty & ((high <= 0) | (low >= limit)).any(1)
    over = ~empty & ~outside & ((low < -1) | (high > limit + 1)).any(1)
    for kind, found in [
        ('empty_boxes', empty),
        ('tiny_boxes', tiny),
        ('outside_boxes', outside),
        ('partly_outside_boxes', over),
    ]:
        report.add(kind, ids[found], 'annotation ids ')
    return ~(empty | tiny | outside)


def check_masks(
    report: CocoReport, annotations: list[dict], images: list[dict], image_row: np.ndarray
) -> None:
    """Report masks that are missing, that have impossible polygons, or of the wrong size."""
    none, bad, other_size = [], [], []
    for annotation, row in zip(annotations, image_row):
        mask = annotation.get('segmentation')
        if isinstance(mask, dict) and mask.get('counts') and mask.get('size'):
            report.rle_masks += not annotation.get('iscrowd')
            if row >= 0 and mask['size'] != [images[row]['height'], images[row]['width']]:
                other_size.append(annotation['id'])
        elif not mask or not isinstance(mask, list) or not all(isinstance(p, list) for p in mask):
            none.append(annotation['id'])
        elif any(len(polygon) < 6 or len(polygon) % 2 for polygon in mask):
            bad.append(annotation['id'])
    report.add('no_masks', none, 'annotation ids ')
    report.add('bad_masks', bad, 'annotation ids ')
    report.add('mask_sizes', other_size, 'annotation ids ')
