"""Annotation files that pycocotools reads but does not count as their authors mean."""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from numbers import Real
from typing import Any

from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import print_log


def countable(ground_truth: COCO) -> COCO:
    """Return annotations that are each of an image of the file, with an id of their own.

    COCO evaluation looks annotations up by their id and takes the id 0 for "no match". It counts an
    object that was found as missed where the id is 0, and the last of several annotations with one
    id for each of them. Here, such annotations are numbered anew, from 1. Annotations of images
    that the file does not list take no part in the evaluation, as with pycocotools. The log names
    what is changed.

    Args:
        ground_truth: The annotations; left as it is.

    Returns:
        ``ground_truth`` itself if nothing has to change, or a copy with other annotations.
    """
    annotations = ground_truth.dataset.get('annotations', [])
    listed = [a for a in annotations if a['image_id'] in ground_truth.imgs]
    if len(listed) < len(annotations):
        first = next(a for a in annotations if a['image_id'] not in ground_truth.imgs)
        _say(
            f'{len(annotations) - len(listed)} annotations are of images that the file does not '
            f'list (first: image {first["image_id"]!r}): they are not counted'
        )
    problem = _problem_of([annotation['id'] for annotation in listed])
    if problem is not None:
        _say(f'{problem}: the annotations are numbered anew, so numbers may differ from COCO API')
        listed = [{**annotation, 'id': i} for i, annotation in enumerate(listed, start=1)]
    if problem is None and len(listed) == len(annotations):
        return ground_truth
    cleaned = COCO()
    cleaned.dataset = {**ground_truth.dataset, 'annotations': listed}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells its progress
        cleaned.createIndex()
    # MMDetection's names of the two indices.
    cleaned.img_ann_map, cleaned.cat_img_map = cleaned.imgToAnns, cleaned.catToImgs
    return cleaned


def _problem_of(ids: list[Any]) -> str | None:
    """Return why COCO evaluation would miscount annotations with these ids, or None."""
    if len(set(ids)) < len(ids):
        repeated, count = Counter(ids).most_common(1)[0]
        return f'{count} annotations have the id {repeated!r}'
    for number in ids:
        if not isinstance(number, Real) or number == 0 or number != number:
            return f'an annotation has the id {number!r}'
    return None


def _say(message: str) -> None:
    print_log(f'COCO metric: {message}', logger='current', level=logging.WARNING)
