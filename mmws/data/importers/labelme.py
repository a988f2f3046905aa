"""Import LabelMe's JSON files, one for each image (https://github.com/wkentaro/labelme)."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..coco_check import read_image_size
from ..coco_check.fields import is_number
from ..errors import DataError
from ..image_files import IMAGE_SUFFIXES, files_in
from .builder import CocoBuilder, Imported, Shape

_CIRCLE_CORNERS = 48
_SKIPPED = ('point', 'points', 'line', 'linestrip')


def is_labelme(root: Path) -> bool:
    """Return whether a folder holds LabelMe's files."""
    return root.is_dir() and any(_read(path) is not None for path in files_in(root, '.json'))


def import_labelme(root: Path) -> Imported:
    """Read all LabelMe files in a folder, at any depth; shapes of one ``group_id`` are one object.

    Raises:
        DataError: with a line for each file that cannot be read, or whose image is missing or has
            another size than the file says.
    """
    builder, problems = CocoBuilder(), []
    for path in files_in(root, '.json'):
        content = _read(path)
        if content is None:
            builder.skip('JSON files left out, which are not of LabelMe', path.name)
            continue
        image_path = _image(path, content)
        if image_path is None:
            problems.append(f'{path}: its image {content["imagePath"]} is missing: put it there')
            continue
        try:
            size = read_image_size(image_path)
        except Exception as error:  # each format has errors of its own
            problems.append(f'{image_path}: cannot be read ({error}): replace the image')
            continue
        declared = content.get('imageWidth'), content.get('imageHeight')
        if all(map(is_number, declared)) and all(declared) and declared != size:
            problems.append(
                f'{path}: is of an image of {declared[0]}x{declared[1]} pixels, but {image_path} '
                f'has {size[0]}x{size[1]}, so that its objects would be misplaced: put the image '
                'there that was annotated'
            )
            continue
        image = builder.add_image(image_path.relative_to(root).as_posix(), size)
        for name, shapes in _objects(content['shapes'], size, path, builder):
            builder.add_object(image, name, shapes)
    if problems:
        raise DataError(problems)
    builder.classes, old = sorted(builder.classes), builder.classes
    for annotation in builder.annotations:
        name = old[annotation['category_id'] - 1]
        annotation['category_id'] = builder.classes.index(name) + 1
    return Imported('LabelMe', root, {'all': builder.data()}, builder.warnings())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError, RecursionError):
        return None
    sound = (
        isinstance(content, dict)
        and isinstance(content.get('shapes'), list)
        and isinstance(content.get('imagePath'), str)
    )
    return content if sound else None


def _image(path: Path, content: dict[str, Any]) -> Path | None:
    name = content['imagePath'].replace('\\', '/')
    tries = [path.parent / name, path.parent / name.rpartition('/')[2]]
    tries += [path.with_suffix(suffix) for suffix in IMAGE_SUFFIXES]
    return next((p for p in tries if p.is_file() and p.is_relative_to(path.parent)), None)


def _objects(
    entries: list, size: tuple[int, int], path: Path, builder: CocoBuilder
) -> list[tuple[str, list[Shape]]]:
    """Return class and shapes of each object."""
    objects: list[tuple[str, list[Shape]]] = []
    groups: dict[tuple[str, Any], list[Shape]] = {}
    for number, entry in enumerate(entries, start=1):
        where = f'{path.name} shape {number}'
        if not isinstance(entry, dict) or not isinstance(entry.get('label'), str):
            builder.skip('shapes left out, without a label', where)
            continue
        if entry.get('shape_type') in _SKIPPED:
            builder.skip('points and lines left out', where)
            continue
        shape = _shape(entry, size)
        if shape is None:
            builder.skip('shapes left out, which enclose nothing', where)
            continue
        group = entry.get('group_id')
        key = entry['label'], group if isinstance(group, (int, str)) else None
        if key[1] is not None and key in groups:
            groups[key].append(shape)
            continue
        shapes = [shape]
        groups[key] = shapes
        objects.append((entry['label'], shapes))
    return objects


def _shape(entry: dict[str, Any], size: tuple[int, int]) -> Shape | None:
    points = entry.get('points')
    if not isinstance(points, list) or not all(
        isinstance(p, list) and len(p) == 2 and all(map(is_number, p)) for p in points
    ):
        return None
    kind = entry.get('shape_type') or 'polygon'
    if kind == 'rectangle' and len(points) in (2, 4):
        xs, ys = zip(*points)
        return Shape(box=(min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)))
    if kind == 'circle' and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        angles = [2 * math.pi * i / _CIRCLE_CORNERS for i in range(_CIRCLE_CORNERS)]
        return Shape(
            polygon=[
                v for a in angles for v in (x + radius * math.cos(a), y + radius * math.sin(a))
            ]
        )
    if kind == 'mask' and points:
        return _mask(entry.get('mask'), points[0], size)
    if kind in ('polygon', 'oriented_rectangle') and len(points) >= 3:
        return Shape(polygon=[float(value) for point in points for value in point])
    return None


def _mask(text: Any, corner: list[float], size: tuple[int, int]) -> Shape | None:
    """Return a mask that is given as a PNG in base64 with its top left corner."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            part = np.array(image.convert('L')) > 0
    except (TypeError, ValueError, OSError):
        return None
    width, height = size
    left, top = round(corner[0]), round(corner[1])
    if left < 0 or top < 0 or left >= width or top >= height:
        return None
    mask = np.zeros((height, width), bool)
    window = mask[top : top + part.shape[0], left : left + part.shape[1]]
    window |= part[: window.shape[0], : window.shape[1]]
    return Shape(mask=mask)
