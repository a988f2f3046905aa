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


MISSING = 'put it there, or take the image off the list'
NAME_ALL = 'name all classes with `classes`, in the order of their labels'


class BrokenFileError(Exception):
    """A file of an image cannot be used; the message is ``<file>: <what>: <remedy>``."""

    def __init__(self, path: Path, what: str, remedy: str) -> None:
        super().__init__(f'{path}: {what}: {remedy}')
        self.path, self.what, self.remedy = path, what, remedy


def problem_lines(problems: list[BrokenFileError]) -> list[str]:
    """Return a line for each file, or one for all where more than two have the same problem."""
    groups: dict[tuple[str, str], list[BrokenFileError]] = {}
    for problem in problems:
        groups.setdefault((problem.what, problem.remedy), []).append(problem)
    lines = []
    for (what, remedy), group in groups.items():
        if len(group) <= 2:
            lines += [str(problem) for problem in group]
            continue
        others = ', '.join(problem.path.name for problem in group[1:3])
        lines.append(
            f'{group[0].path} and {len(group) - 1} more files ({others}'
            f'{", ..." if len(group) > 3 else ""}): {what}: {remedy}'
        )
    return list(dict.fromkeys(lines))


def require_size(path: Path, size: tuple[Any, ...], expected: tuple[int, int]) -> None:
    """Raise BrokenFileError unless a file declares the (width, height) of its image."""
    if size != expected:
        sizes = [
            'x'.join(f'{s:g}' if s is not None else '?' for s in wh) for wh in (size, expected)
        ]
        raise BrokenFileError(
            path,
            f'size {sizes[0]}, while the image has {sizes[1]}',
            'one of the two belongs to another image, or its width and height are wrong',
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
