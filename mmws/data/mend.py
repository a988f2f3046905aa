"""Correct what has one meaning in an annotation file, and leave out what has none."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from mmws.files import replacing

from .coco_check.boxes import are_corners
from .coco_check.fields import image_fault, is_number
from .coco_check.images import check_files
from .coco_check.masks import FAR, check_mask
from .coco_check.pixels import decode_image
from .coco_check.reader import read_text
from .coco_check.report import CocoReport


@dataclass
class Mending:
    """What was changed in an annotation file.

    Attributes:
        path: The new file; the old one if nothing had to be changed.
        changes: For each kind of change the entries concerned, as text.
        img_dir: Folder of the images; ``None`` if not found.
    """

    path: str
    changes: dict[str, list[str]] = field(default_factory=dict)
    img_dir: str | None = None

    def note(self, what: str, entry: Any) -> None:
        """Count an entry that was changed."""
        self.changes.setdefault(what, []).append(str(entry))

    def table(self) -> list[str]:
        """Return a line for each kind of change: the count, the change and three examples."""
        return [
            f'{len(entries):>8}  {what} ({", ".join(entries[:3])}'
            f'{", ..." if len(entries) > 3 else ""})'
            for what, entries in self.changes.items()
        ]


def mend_coco(
    json_path: str | Path,
    out: str | Path,
    img_dir: str | Path | None = None,
    masks: bool = True,
    split: str = 'train',
) -> Mending:
    """Write a corrected copy of a COCO instances file.

    What has one meaning is corrected: spelling of file names, sizes of images, types and repeated
    ids, ``iscrowd``, ``area``, boxes given by two corners or over the edge, flat polygons. An
    annotation that means nothing is left out: without a known image or category, without a box of
    at least one pixel inside its image or, with ``masks``, without a mask that can be drawn. Images
    that cannot be decoded stay. Each change is listed.

    Args:
        json_path: The file, which is not changed.
        out: The file to write.
        img_dir: Folder of the images. ``None``: look for it near the file.
        masks: Whether masks are trained.
        split: ``'train'`` or ``'val'``, names the folders to look for.

    Returns:
        The path of the file to use, and the changes.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if the file is no COCO instances file.
    """
    data, mending = mended_data(json_path, img_dir, masks, split)
    if not mending.changes:
        return mending
    mending.path = str(out)
    with replacing(Path(out)) as draft:
        draft.write_text(json.dumps(data), encoding='utf-8')
    return mending


def mended_data(
    json_path: str | Path,
    img_dir: str | Path | None = None,
    masks: bool = True,
    split: str = 'train',
) -> tuple[dict[str, Any], Mending]:
    """Return what :func:`mend_coco` writes, and the changes; see there for the arguments."""
    text, plain = read_text(json_path)
    data = json.loads(text)
    del text
    for name in ('images', 'annotations', 'categories'):
        if not isinstance(data, dict) or not isinstance(data.get(name), list):
            raise ValueError(f'{json_path} is not a COCO instances file: no list {name!r}')
    mending = Mending(str(json_path))
    if not plain:
        mending.note('byte order mark removed', json_path)
    # Also images with other faults tell where the images are.
    names = [i.get('file_name') for i in data['images'] if isinstance(i, dict)]
    report = CocoReport(
        str(json_path), file_names=tuple(name for name in names if isinstance(name, str) and name)
    )
    respelled: dict[str, str] = {}
    if report.file_names:
        respelled = check_files(report, img_dir, split)
    mending.img_dir = report.img_dir
    folder = report.img_dir or str(img_dir or '')
    data['images'] = _mend_images(data['images'], folder, respelled, mending)
    data['annotations'] = _mend_annotations(data, masks, mending)
    return data, mending


def _mend_images(
    images: list, folder: str, respelled: dict[str, str], mending: Mending
) -> list[dict]:
    kept = []
    for image in images:
        if not isinstance(image, dict) or not isinstance(image.get('file_name'), str):
            mending.note('images without a file name left out', repr(image)[:40])
            continue
        name = image['file_name']
        if name in respelled:
            image['file_name'] = respelled[name]
            mending.note('file names spelled as the files are', f'{name} -> {respelled[name]}')
        path = os.path.join(folder, image['file_name'])
        if not os.path.isfile(path):
            kept.append(image)  # the check names it
            continue
        fault = image_fault(image)
        if fault and fault[0] in ('width', 'height'):
            size = decode_image(path).size
            if size != (0, 0):
                image['width'], image['height'] = size
                mending.note('sizes of images taken from the files', name)
        kept.append(image)
    return kept


def _mend_annotations(data: dict, masks: bool, mending: Mending) -> list[dict]:
    images = {i['id']: i for i in data['images'] if isinstance(i.get('id'), (int, str))}
    categories = {
        c['id'] for c in data['categories'] if isinstance(c, dict) and _is_id(c.get('id'))
    }
    corners = _box_corners(data['annotations'], images)
    find_image, find_category = _finder(images), _finder(categories)
    kept = []
    for annotation in data['annotations']:
        if not isinstance(annotation, dict):
            mending.note('annotations that are no objects left out', repr(annotation)[:40])
            continue
        shown = annotation.get('id')
        for key, find in (('image_id', find_image), ('category_id', find_category)):
            value = annotation.get(key)
            found = find(value)
            if found is None:
                mending.note(f'annotations left out, of an unknown {key}', shown)
                break
            if found != value or type(found) is not type(value):
                annotation[key] = found
                mending.note(f'{key} written like the id it refers to', f'{value!r} -> {found!r}')
        else:
            image = images[annotation['image_id']]
            if image_fault(image) or _mend_annotation(annotation, image, masks, corners, mending):
                kept.append(annotation)
    ids = [a.get('id') for a in kept]
    if not all(map(_is_id, ids)) or len(set(ids)) < len(ids):
        mending.note('annotations renumbered from 1', f'{len(kept)} annotations')
        for number, annotation in enumerate(kept, start=1):
            annotation['id'] = number
    return kept


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or (type(value) is int and abs(value) < 2**63)


def _finder(known: Any) -> Callable[[Any], Any]:
    """Return a function that finds an id, also where a number is given as text or as a float."""
    as_text = {str(value): value for value in known}

    def find(value: Any) -> Any:
        if _is_id(value) and value in known:
            return value
        if type(value) is float and math.isfinite(value) and value == math.floor(value):
            value = int(value)
        return as_text.get(str(value))

    return find


def _box_corners(annotations: list, images: dict) -> bool:
    """Return whether the boxes of a file are given by two corners."""
    boxes, limits = [], []
    for annotation in annotations:
        if isinstance(annotation, dict):
            box, image_id = annotation.get('bbox'), annotation.get('image_id')
            image = images.get(image_id) if _is_id(image_id) else None
            if image and not image_fault(image) and _is_box(box):
                boxes.append(box)
                limits.append((image['width'], image['height']))
    return are_corners(
        np.array(boxes, np.float64).reshape(-1, 4), np.array(limits, np.float64).reshape(-1, 2)
    )


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box))


def _mend_annotation(
    annotation: dict, image: dict, masks: bool, corners: bool, mending: Mending
) -> bool:
    """Correct an annotation in place; return whether it can be used."""
    shown = annotation.get('id')
    width, height = int(image['width']), int(image['height'])
    rle = _mend_mask(annotation, (width, height), mending) if 'segmentation' in annotation else None
    if rle is None and masks:
        mending.note('annotations left out, without a mask that can be drawn', shown)
        return False
    if rle is None and annotation.pop('segmentation', None) is not None:
        mending.note('masks removed that cannot be drawn', shown)

    box: Any = annotation.get('bbox')
    if not _is_box(box):
        if rle is None:
            mending.note('annotations left out, without a box of 4 numbers', shown)
            return False
        box = mask_utils.toBbox(rle).tolist()
        mending.note('boxes taken from the masks', shown)
    elif corners:
        box = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        mending.note('boxes changed from two corners to [x, y, width, height]', shown)
    left, top = max(0, box[0]), max(0, box[1])
    right, bottom = min(width, box[0] + box[2]), min(height, box[1] + box[3])
    if right - left < 1 or bottom - top < 1:
        mending.note('annotations left out, whose box has no pixel inside the image', shown)
        return False
    if max(left - box[0], top - box[1], box[0] + box[2] - right, box[1] + box[3] - bottom) > 1:
        box = [left, top, right - left, bottom - top]
        mending.note('boxes cut off at the edge of the image', shown)
    annotation['bbox'] = box

    area = annotation.get('area')
    if not is_number(area) or area is None or area <= 0:
        annotation['area'] = float(mask_utils.area(rle)) if rle else box[2] * box[3]
        mending.note('areas computed', shown)
        if annotation['area'] <= 0:
            annotation['area'] = box[2] * box[3]
    crowd = annotation.get('iscrowd')
    if type(crowd) is not int or crowd not in (0, 1):
        annotation['iscrowd'] = int(crowd in ('1', True) or str(crowd).lower() == 'true')
        mending.note(f'iscrowd set to {annotation["iscrowd"]}', f'{shown}: was {crowd!r}')
    return True


def _mend_mask(annotation: dict, size: tuple[int, int], mending: Mending) -> dict | None:
    """Correct a mask in place; return it as RLE, ``None`` if it cannot be drawn."""
    mask, shown = annotation['segmentation'], annotation.get('id')
    width, height = size
    if isinstance(mask, list):
        polygons = [mask] if mask and all(map(is_number, mask)) else mask
        flat = [_flat(polygon) for polygon in polygons]
        sound = [p for p in flat if p is not None and not check_mask([p]).kind]
        if not sound:
            return None
        if sound != mask:
            annotation['segmentation'] = sound
            mending.note('polygons corrected, or left out of a mask with others', shown)
        return mask_utils.merge(mask_utils.frPyObjects(sound, height, width))
    state = check_mask(mask)
    if state.kind or state.size != (height, width):
        return None
    if isinstance(mask['counts'], list):
        return mask_utils.frPyObjects(mask, height, width)
    return {'size': mask['size'], 'counts': mask['counts'].encode('ascii')}


def _flat(polygon: Any) -> list | None:
    """Return a polygon as one list of numbers, also if it is a list of points."""
    if not isinstance(polygon, list):
        return None
    if polygon and all(isinstance(point, list) and len(point) == 2 for point in polygon):
        polygon = [value for point in polygon for value in point]
    if not all(is_number(value) and abs(value) < FAR for value in polygon):
        return None
    return polygon
