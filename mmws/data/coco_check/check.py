"""Read a COCO instances file and look for all kinds of problems."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .entries import (
    check_boxes,
    check_masks,
    is_sound_annotation,
    is_sound_category,
    is_sound_image,
    split_sound,
)
from .images import check_files, check_some_images
from .report import CocoReport


def check_coco(
    json_path: str | Path,
    img_dir: str | Path | None = None,
    masks: bool = True,
    split: str = 'train',
) -> CocoReport:
    """Read and check a COCO instances file; a bad file is reported, not raised.

    ``classes`` are in the order of the file's ``categories``, whatever their ids: MMDetection
    numbers labels by that order, not by the order of ``metainfo['classes']``.

    Takes time and memory like pycocotools' reader; folders are listed once, 200 images are opened.

    Args:
        json_path: Annotation file.
        img_dir: Folder the file names are relative to. ``None``: look for it near the file.
        masks: Whether masks are trained, so that annotations need one.
        split: ``'train'`` or ``'val'``, names the folders to look for.
    """
    report = CocoReport(str(json_path))
    data = _read(Path(json_path), report)
    if data is None:
        return report

    images, bad_images = split_sound(data['images'], is_sound_image)
    annotations, bad_annotations = split_sound(data['annotations'], is_sound_annotation)
    categories, bad_categories = split_sound(data['categories'], is_sound_category)
    for name, bad, fields in [
        ('images', bad_images, 'id, file_name, height, width'),
        ('annotations', bad_annotations, 'id, image_id, category_id, bbox, area'),
        ('categories', bad_categories, 'id, name'),
    ]:
        report.add('bad_entries', bad, f"'{name}' need {fields}; their index: ")

    report.classes = tuple(category['name'] for category in categories)
    report.file_names = tuple(image['file_name'] for image in images)
    report.instances = len(annotations)
    crowd = np.array([bool(a.get('iscrowd')) for a in annotations], dtype=bool)
    report.crowds = int(crowd.sum())
    report.min_side = min((min(i['height'], i['width']) for i in images), default=0)

    repeated = _repeated(c['id'] for c in categories) + _repeated(report.classes)
    report.add('duplicate_categories', repeated, 'e.g. ')
    report.add('duplicate_image_ids', _repeated(i['id'] for i in images), 'e.g. ')
    report.add('duplicate_annotation_ids', _repeated(a['id'] for a in annotations), 'e.g. ')

    ids = np.array([a['id'] for a in annotations], dtype=object)
    image_row = _rows(images, [a['image_id'] for a in annotations])
    label = _rows(categories, [a['category_id'] for a in annotations])
    known_image, known_category = image_row >= 0, label >= 0
    report.add('unknown_images', ids[~known_image], 'annotation ids ')
    unknown = dict.fromkeys(
        a['category_id'] for a, known in zip(annotations, known_category) if not known
    )
    where = f'category ids {", ".join(map(str, list(unknown)[:5]))}; annotation ids '
    report.add('unknown_categories', ids[~known_category], where)
    report.counts = tuple(np.bincount(label[known_category], minlength=len(categories)).tolist())
    annotated = np.unique(image_row[known_image & known_category])
    report.images_with_instances = len(annotated)
    bare = np.setdiff1d(np.arange(len(images)), annotated)
    report.add('images_without_annotations', [report.file_names[i] for i in bare], 'e.g. ')

    kept = check_boxes(report, annotations, images, ids, image_row)
    if not (kept & known_image & known_category & ~crowd).any():
        report.add('no_annotations', [''])
    report.add('no_iscrowd', [a['id'] for a in annotations if 'iscrowd' not in a], 'ids ')
    if masks:
        check_masks(report, annotations, images, image_row)
    if report.file_names:
        check_files(report, img_dir, split)
        if report.img_dir is not None:
            check_some_images(report, images)
    return report


def _read(path: Path, report: CocoReport) -> dict | None:
    try:
        with path.open(encoding='utf-8') as file:
            data = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, 'strerror', None) or error
        report.add('unreadable', [f'{type(error).__name__}: {reason}'])
        return None
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            report.add('not_coco', [f'no list {key!r}'])
            return None
    for key in ('images', 'categories'):
        if not data[key]:
            report.add('not_coco', [f'{key!r} is empty'])
            return None
    return data


def _repeated(values: Iterable) -> list:
    return [value for value, count in Counter(values).items() if count > 1]


def _rows(entries: list[dict], ids: list) -> np.ndarray:
    """Return the index in ``entries`` of each of ``ids``, -1 where there is none: ``(N,)``."""
    row = {entry['id']: i for i, entry in enumerate(entries)}
    return np.array([row.get(id_, -1) for id_ in ids], dtype=np.int64)
