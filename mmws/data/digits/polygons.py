"""Trace masks as COCO polygons."""

from __future__ import annotations

import cv2
import numpy as np

_CONTOUR_SCALE = 4  # contours run through pixel centres; finer pixels bring them to the edge


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Trace the outline of a mask, along the edges of its pixels.

    COCO polygons have no holes: a hole is joined to the outline around it by a cut of no width,
    which every even-odd rasterizer, pycocotools' too, leaves out again.

    Args:
        mask: Boolean, of shape (H, W).

    Returns:
        One polygon ``[x0, y0, x1, y1, ...]`` per connected part, in pixels, where the top left
        pixel spans 0..1.
    """
    fine = mask.astype(np.uint8).repeat(_CONTOUR_SCALE, axis=0).repeat(_CONTOUR_SCALE, axis=1)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    contours = [cv2.approxPolyDP(c, 0.4 * _CONTOUR_SCALE, closed=True)[:, 0] for c in contours]
    outlines = {i: c for i, c in enumerate(contours) if hierarchy[0, i, 3] < 0}
    for hole, (_, _, _, parent) in zip(contours, hierarchy[0]):
        if parent < 0 or len(hole) < 3:
            continue
        outline = outlines[parent]
        distance = np.linalg.norm(outline[:, None] - hole, axis=2)
        i, j = np.unravel_index(distance.argmin(), distance.shape)
        loop = np.roll(hole, -j, axis=0)
        outlines[parent] = np.concatenate([outline[: i + 1], loop, loop[:1], outline[i:]])
    return [
        ((outline + 0.5) / _CONTOUR_SCALE).ravel().tolist()
        for outline in outlines.values()
        if len(outline) >= 3
    ]
