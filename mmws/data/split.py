"""Split the images of one annotation file into training and validation."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np


def split_coco(
    data: dict[str, Any], fraction: float, seed: int = 0, group_by: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a COCO data set by images; the same arguments always give the same split.

    Args:
        data: Content of a COCO instances file.
        fraction: Fraction of the images to validate on, between 0 and 1. At least one image, or one
            group, goes to either side.
        seed: Of the choice.
        group_by: Images of one group stay on one side, such as the frames of one film:
            ``'folder'`` for the folder of the file name, or a regular expression whose first
            group, or whole match, names the group. ``None``: each image is a group.

    Returns:
        The training and the validation set; images and annotations in the order of ``data``.

    Raises:
        ValueError: if an argument is out of range, or there are fewer than two groups.
    """
    if not 0 < fraction < 1:
        raise ValueError(f'the fraction of validation images must be between 0 and 1: {fraction}')
    group_of = _grouping(group_by)
    groups: dict[str, list[Any]] = {}
    for image in data['images']:
        groups.setdefault(group_of(str(image['file_name'])), []).append(image['id'])
    if len(groups) < 2:
        name = 'image' if group_by is None else f'group of images by {group_by!r}'
        raise ValueError(f'{len(groups)} {name}: a split needs at least 2')
    # Sorted, so that the order of the file does not matter.
    names = sorted(groups)
    wanted = fraction * len(data['images'])
    held_back: list[Any] = []
    for count, index in enumerate(np.random.default_rng(seed).permutation(len(names)), start=1):
        members = groups[names[index]]
        enough = len(held_back) + len(members) / 2 > wanted
        if held_back and (enough or count == len(names)):
            break
        held_back += members
    chosen = set(held_back)
    return _part(data, lambda image_id: image_id not in chosen), _part(data, chosen.__contains__)


def _grouping(group_by: str | None) -> Callable[[str], str]:
    if group_by is None:
        return lambda name: name
    if group_by == 'folder':
        return lambda name: os.path.dirname(name.replace('\\', '/'))
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise ValueError(
            f'groups of images: {group_by!r} is no regular expression ({error})'
        ) from None

    def group_of(name: str) -> str:
        match = pattern.search(name)
        if match is None:
            raise ValueError(f'groups of images: {group_by!r} does not match {name}')
        return match.group(1) if pattern.groups else match.group()

    return group_of


def _part(data: dict[str, Any], contains: Callable[[Any], bool]) -> dict[str, Any]:
    return {
        **data,
        'images': [image for image in data['images'] if contains(image['id'])],
        'annotations': [a for a in data['annotations'] if contains(a['image_id'])],
    }
