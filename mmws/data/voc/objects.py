"""Objects of one image, and the error for a file that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_utils

from ..rle import encode_masks


class VocObject(NamedTuple):
    """One object of one image; lengths in pixels from 0, as COCO counts."""

    label: int
    box: tuple[float, float, float, float]  # x, y, width, height
    difficult: bool = False
    area: float = 0.0
    rle: dict | None = None


class Contents(NamedTuple):
    """What the files of one image hold, apart from the image itself."""

    objects: list[VocObject]
    border_pixels: int = 0
    pixels: int = 0


class BrokenFileError(Exception):
    """A file of an image cannot be used; the message is ``<file>: <what>: <remedy>``."""


def require_size(path: Path, size: tuple[Any, ...], expected: tuple[int, int]) -> None:
    """Raise BrokenFileError unless a file declares the (width, height) of its image."""
    if size != expected:
        sizes = [
            'x'.join(f'{s:g}' if s is not None else '?' for s in wh) for wh in (size, expected)
        ]
        raise BrokenFileError(
            f'{path}: size {sizes[0]}, while the image has {sizes[1]}: one of the two belongs to '
            'another image'
        )


def objects_of_labels(
    instance_map: np.ndarray, ids: list[int], labels: list[int]
) -> list[VocObject]:
    """Return the instances ``ids`` of a label map of shape (H, W), with exact masks."""
    rles = encode_masks(instance_map[..., None] == np.array(ids, instance_map.dtype))
    return [
        VocObject(label, tuple(mask_utils.toBbox(rle)), False, float(mask_utils.area(rle)), rle)
        for label, rle in zip(labels, rles)
    ]
