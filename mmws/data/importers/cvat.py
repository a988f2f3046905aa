"""Import CVAT's XML for images, version 1.1 (https://docs.cvat.ai/docs/manual/advanced/xml_format)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..errors import DataError
from .builder import CocoBuilder, Imported, Shape

_ELLIPSE_CORNERS = 48
_LONGEST_SIDE = 1 << 16  # pixels; what a mask is drawn on has to fit into memory
_SKIPPED = ('points', 'polyline', 'cuboid', 'skeleton')
_SPLITS = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val',
           'validation': 'val', 'test': 'test', 'testing': 'test'}  # fmt: skip


def is_cvat(root: Path) -> bool:
    """Return whether a file is CVAT's XML, or a folder holds one as ``annotations.xml``."""
    path = _xml_of(root)
    if path is None:
        return False
    with path.open('rb') as file:
        return b'<annotations>' in file.read(4096)


def import_cvat(root: Path) -> Imported:
    """Read CVAT's XML and find its images.

    Shapes of one ``group_id`` and label are one object. Images of the subsets ``train`` and ``val``
    stay in these splits, and others are left out where there are both. Those of ``test`` are left
    out wherever there are others.

    Args:
        root: ``annotations.xml``, or its folder.

    Raises:
        DataError: if the file cannot be read, is of a video, or images are missing.
    """
    path = _xml_of(root)
    assert path is not None
    try:
        tree = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError([f'{path}: cannot be read as XML ({error}): export it again']) from None
    if tree.find('track') is not None:
        raise DataError([f'{path}: holds the tracks of a video: export "CVAT for images 1.1"'])
    labels = tree.iterfind('.//labels/label')
    # The parts of a skeleton have a parent, and no shape of their own.
    classes = [label.findtext('name') or '' for label in labels if not label.findtext('parent')]
    img_dir = _image_folder(path.parent, tree)
    builders: dict[str, CocoBuilder] = {}
    for item in tree.iterfind('image'):
        split = _SPLITS.get((item.get('subset') or '').lower(), 'all')
        builder = builders.setdefault(split, CocoBuilder(classes))
        try:
            _add(builder, item, img_dir)
        except ValueError as error:
            name = item.get('name') or 'without a name'
            raise DataError([f'{path}: image {name}: {error}: export it again']) from None
        classes = builder.classes  # shared, so that all splits number classes alike
        for other in builders.values():
            other.classes = classes
    if not builders:
        raise DataError([f'{path}: holds no image: export "CVAT for images 1.1"'])
    has_split = {'train', 'val'} <= set(builders)
    unused = {'all', 'test'} if has_split else {'test'} if len(builders) > 1 else set()
    left_out = [builders.pop(name) for name in sorted(unused) if name in builders]
    if not has_split:
        builders = {'all': _joined(list(builders.values()))}
    warnings = [line for builder in builders.values() for line in builder.warnings()]
    names = [image['file_name'] for builder in left_out for image in builder.images]
    if names:
        more = ', ...' if len(names) > 3 else ''
        warnings.append(
            f'{len(names)} images of other subsets left out: {", ".join(names[:3])}{more}'
        )
    splits = {split: builder.data() for split, builder in sorted(builders.items())}
    return Imported('CVAT', img_dir, splits, warnings)


def _xml_of(root: Path) -> Path | None:
    if root.is_file():
        return root if root.suffix == '.xml' else None
    path = root / 'annotations.xml'
    return path if path.is_file() else None


def _image_folder(folder: Path, tree: ElementTree.Element) -> Path:
    items = list(tree.iterfind('image'))
    places = [folder / 'images', folder, folder.parent / 'images', folder.parent]
    places += [folder / 'images' / 'default']
    found = [sum((place / _file_name(item, place)).is_file() for item in items) for place in places]
    if items and not max(found):
        name = items[0].get('name')
        raise DataError([f'{folder}: the images are missing, such as {name}: put them there'])
    return places[int(np.argmax(found))] if items else folder


def _file_name(item: ElementTree.Element, folder: Path) -> str:
    """Return where the image of an entry is in a folder: perhaps in one for its subset."""
    name, subset = item.get('name') or '', item.get('subset') or ''
    inner = f'{subset}/{name}'
    return inner if subset and (folder / inner).is_file() else name


def _joined(builders: list[CocoBuilder]) -> CocoBuilder:
    whole = CocoBuilder(builders[0].classes)
    for builder in builders:
        first_image, first_object = len(whole.images), len(whole.annotations)
        for image in builder.images:
            whole.images.append({**image, 'id': image['id'] + first_image})
        for entry in builder.annotations:
            whole.annotations.append(
                {
                    **entry,
                    'id': entry['id'] + first_object,
                    'image_id': entry['image_id'] + first_image,
                }
            )
        for what, where in builder.skipped.items():
            whole.skipped.setdefault(what, []).extend(where)
    return whole


def _add(builder: CocoBuilder, item: ElementTree.Element, img_dir: Path) -> None:
    size = int(_number(item, 'width')), int(_number(item, 'height'))
    if not all(1 <= side <= _LONGEST_SIDE for side in size):
        raise ValueError(f'width and height are {size[0]} x {size[1]}, which no image has')
    image = builder.add_image(_file_name(item, img_dir), size)
    groups: dict[tuple[str, str], list[Shape]] = {}
    objects: list[tuple[str, list[Shape]]] = []
    for number, element in enumerate(item, start=1):
        where = f'{image["file_name"]} shape {number}'
        if element.tag == 'tag':
            continue
        if element.tag in _SKIPPED:
            builder.skip('points, lines, cuboids and skeletons left out', where)
            continue
        try:
            shape = _shape(element, size)
        except (KeyError, ValueError, TypeError, OverflowError):
            shape = None
        if shape is None:
            builder.skip('shapes left out, which cannot be read or enclose nothing', where)
            continue
        label = element.get('label') or ''
        key = label, element.get('group_id') or '0'
        if key[1] != '0' and key in groups:
            groups[key].append(shape)
            continue
        groups[key] = [shape]
        objects.append((label, groups[key]))
    for label, shapes in objects:
        builder.add_object(image, label, shapes)


def _number(element: ElementTree.Element, name: str, default: str | None = None) -> float:
    text = element.get(name, default)
    try:
        value = float(text if text is not None else 'nan')
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f'{name} is {text!r}, which is no finite number')
    return value


def _shape(element: ElementTree.Element, size: tuple[int, int]) -> Shape | None:
    kind: Any = element.tag
    if kind == 'box':
        left, top, right, bottom = (_number(element, k) for k in ('xtl', 'ytl', 'xbr', 'ybr'))
        angle = math.radians(_number(element, 'rotation', '0'))
        if not angle:
            return Shape(box=(left, top, right - left, bottom - top))
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        centre = (left + right) / 2, (top + bottom) / 2
        return Shape(polygon=_turned(corners, centre, angle))
    if kind == 'polygon':
        points = [pair.split(',') for pair in element.attrib['points'].split(';')]
        values = [float(value) for x, y in points for value in (x, y)]
        return (
            Shape(polygon=values) if len(values) >= 6 and all(map(math.isfinite, values)) else None
        )
    if kind == 'ellipse':
        x, y, rx, ry = (_number(element, k) for k in ('cx', 'cy', 'rx', 'ry'))
        steps = [2 * math.pi * i / _ELLIPSE_CORNERS for i in range(_ELLIPSE_CORNERS)]
        corners = [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in steps]
        return Shape(
            polygon=_turned(corners, (x, y), math.radians(_number(element, 'rotation', '0')))
        )
    if kind == 'mask':
        return _mask(element, size)
    return None


def _turned(
    corners: list[tuple[float, float]], centre: tuple[float, float], angle: float
) -> list[float]:
    """Return a polygon turned clockwise, as the image is seen."""
    (cx, cy), cos, sin = centre, math.cos(angle), math.sin(angle)
    return [
        value
        for x, y in corners
        for value in (
            cx + (x - cx) * cos - (y - cy) * sin,
            cy + (x - cx) * sin + (y - cy) * cos,
        )
    ]


def _mask(element: ElementTree.Element, size: tuple[int, int]) -> Shape | None:
    """Read runs of background and object, row by row, within a box."""
    left, top, width, height = (
        int(_number(element, k)) for k in ('left', 'top', 'width', 'height')
    )
    runs = np.array([int(run) for run in element.attrib['rle'].split(',')])
    if not (0 < width <= _LONGEST_SIDE and 0 < height <= _LONGEST_SIDE):
        return None
    if (runs < 0).any() or runs.sum() != width * height:
        return None
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    mask = np.zeros((size[1], size[0]), bool)
    if left < 0 or top < 0:
        return None
    window = mask[top : top + height, left : left + width]
    window |= part[: window.shape[0], : window.shape[1]]
    return Shape(mask=mask)
