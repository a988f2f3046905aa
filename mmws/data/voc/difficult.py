"""Transfer ``difficult`` from the boxes of ``Annotations`` to masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_utils

from ..rle import encode_masks
from .objects import VocObject

# The box of an object and that of its mask, which the border makes smaller, overlap by this IoU at
# least; the smaller the object, the more the border takes away.
_SAME_OBJECT = 0.25


def mark_difficult(
    objects: list[VocObject],
    drawn: list[VocObject],
    void: np.ndarray,
    path: Path,
    note: Callable[[str, str], None],
) -> list[VocObject]:
    """Transfer ``difficult`` from the N boxes ``drawn`` to the M masks ``objects``.

    Returns:
        The M objects, followed by those difficult ones that are within ``void``, (H, W) bool.
    """
    pairs = _same_objects([o[:2] for o in objects], [o[:2] for o in drawn])
    marked = [
        item._replace(difficult=i in pairs and drawn[pairs[i]].difficult)
        for i, item in enumerate(objects)
    ]
    if len(pairs) < len(objects):
        note('masks of no object in Annotations', f'{path}')
    for index, item in enumerate(drawn):
        if index in pairs.values():
            continue
        if not item.difficult:
            note('objects without a mask, which are left out', f'{path} object {index + 1}')
            continue
        hidden = _within(void, item.box)
        if hidden.any():
            rle = encode_masks(hidden[..., None])[0]
            area = float(mask_utils.area(rle))
            marked.append(item._replace(box=tuple(mask_utils.toBbox(rle)), area=area, rle=rle))
    return marked


def _same_objects(one: list[tuple], other: list[tuple]) -> dict[int, int]:
    """Pair (label, box) of two lists, the best overlap first; return indices one -> other."""
    if not one or not other:
        return {}
    boxes = [np.array([box for _, box in side], np.float64) for side in (one, other)]
    overlap = mask_utils.iou(*boxes, [0] * len(other))
    overlap[np.array([label for label, _ in one])[:, None] != [label for label, _ in other]] = 0
    pairs: dict[int, int] = {}
    while overlap.max() >= _SAME_OBJECT:
        i, j = np.unravel_index(overlap.argmax(), overlap.shape)
        pairs[int(i)] = int(j)
        overlap[i], overlap[:, j] = 0, 0
    return pairs


def _within(mask: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    """Return ``mask``, (H, W) bool, without what is outside of ``box``."""
    x, y, width, height = (round(value) for value in box)
    inside = np.zeros_like(mask)
    window = np.s_[max(y, 0) : y + height, max(x, 0) : x + width]
    inside[window] = mask[window]
    return inside
