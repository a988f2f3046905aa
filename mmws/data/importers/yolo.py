"""Import YOLO's text files: boxes or polygons, one object a line, relative to the image's size.

The layout is that of https://docs.ultralytics.com/datasets/segment/: a YAML file names the classes
and the folders or lists of images; labels lie in ``labels`` beside ``images``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..coco_check import read_image_size
from ..errors import DataError
from ..image_files import IMAGE_SUFFIXES, files_in
from .builder import CocoBuilder, Imported, Shape

_MOST_CLASSES = 10_000  # a larger number in a label file without names is a mistake
_SPLITS = {'train': ('train',), 'val': ('val', 'valid', 'validation')}


def is_yolo(root: Path) -> bool:
    """Return whether a folder, or a YAML file, describes a YOLO data set."""
    if root.is_file():
        return root.suffix in ('.yaml', '.yml') and _read_yaml(root) is not None
    if _yaml_in(root) is not None:
        return True
    return next(files_in(root / 'labels', '.txt'), None) is not None


def import_yolo(root: Path) -> Imported:
    """Read a YOLO data set; of one with key points, which has a ``kpt_shape``, the boxes.

    Args:
        root: Its folder, or its YAML file.

    Raises:
        DataError: with a line for each label file that cannot be read.
        FileNotFoundError: if a folder that the YAML file names does not exist.
    """
    path = root if root.is_file() else _yaml_in(root)
    folder = path.parent if path is not None else root
    content = (_read_yaml(path) if path is not None else None) or {}
    names = _class_names(content.get('names'), folder)
    base = Path(folder, str(content.get('path') or ''))
    if not base.is_dir():
        base = folder  # written on another machine
    images = {}
    for split, keys in _SPLITS.items():
        key = next((key for key in keys if content.get(key)), None)
        if key is not None:
            where = f'{key!r} of {path}'
            images[split] = list(_images(base, folder, content[key], where))
    if not images:
        found = {split: _first_dir(base, keys) for split, keys in _SPLITS.items()}
        if all(found.values()):
            images = {split: _in_folder(inner) for split, inner in found.items() if inner}
        else:
            inner = base / 'images'
            images = {'all': _in_folder(inner if inner.is_dir() else base)}
    problems: list[str] = []
    splits, warnings = {}, []
    for split, paths in images.items():
        builder = CocoBuilder(names)
        for image in paths:
            _add(builder, base, image, len(names) > 0, bool(content.get('kpt_shape')), problems)
        # Numbers stand for classes that have no name.
        splits[split] = builder.data()
        warnings += [f'{split}: {line}' for line in builder.warnings()]
        names = builder.classes
    if problems:
        raise DataError(problems)
    for data in splits.values():
        data['categories'] = [{'id': i, 'name': n} for i, n in enumerate(names, start=1)]
    return Imported('YOLO', base, splits, warnings)


def _yaml_in(root: Path) -> Path | None:
    found = sorted([*root.glob('*.yaml'), *root.glob('*.yml')])
    return next((path for path in found if _read_yaml(path) is not None), None)


def _read_yaml(path: Path) -> dict[str, Any] | None:
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8-sig'))
    except (OSError, UnicodeError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) and 'names' in content else None


def _class_names(names: Any, folder: Path) -> list[str]:
    if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
        names = {int(key): name for key, name in names.items()}  # JSON has no keys but texts
        # Numbers that have no name keep their place, as labels are numbers.
        return [str(names.get(i, i)) for i in range(max(names, default=-1) + 1)]
    if isinstance(names, list):
        return [str(name) for name in names]
    for file in ('classes.txt', 'obj.names', 'labels/classes.txt'):
        if (folder / file).is_file():
            lines = (folder / file).read_text(encoding='utf-8-sig').splitlines()
            return [line.strip() for line in lines if line.strip()]
    return []


def _first_dir(base: Path, keys: tuple[str, ...]) -> Path | None:
    places = [base / 'images' / key for key in keys] + [base / key / 'images' for key in keys]
    return next((path for path in places if path.is_dir()), None)


def _in_folder(folder: Path) -> list[Path]:
    return list(files_in(folder, *IMAGE_SUFFIXES))


def _images(base: Path, folder: Path, value: Any, where: str) -> Iterator[Path]:
    """Yield the images that ``train`` or ``val`` of the YAML file names: folders, files, lists.

    ``where`` is how messages call that entry.
    """
    for entry in value if isinstance(value, list) else [value]:
        # Exporters write paths relative to places where only they have been.
        tries = [base / str(entry), folder / str(entry), folder / str(entry).lstrip('./')]
        path = next((p for p in tries if p.exists()), None)
        if path is None:
            raise FileNotFoundError(f'{where} names {tries[0]}, which does not exist: correct it')
        if path.is_dir():
            yield from _in_folder(path)
        elif path.suffix == '.txt':
            lines = path.read_text(encoding='utf-8-sig').splitlines()
            listed = (line.strip() for line in lines if line.strip())
            yield from (Path(base, line) for line in listed)
        else:
            yield path


def _label_file(image: Path) -> Path:
    """Return the label file of an image: below ``labels`` instead of the last ``images``."""
    parts = list(image.with_suffix('.txt').parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == 'images':
            parts[i] = 'labels'
            return Path(*parts)
    return image.with_suffix('.txt')


def _add(
    builder: CocoBuilder, base: Path, path: Path, named: bool, has_points: bool, problems: list[str]
) -> None:
    try:
        size = read_image_size(path)
    except Exception as error:  # each format has errors of its own
        problems.append(f'{path}: cannot be read ({error}): replace or remove the image')
        return
    try:
        file_name = path.relative_to(base).as_posix()
    except ValueError:
        file_name = path.resolve().as_posix()  # outside of the folder
    image = builder.add_image(file_name, size)
    labels = _label_file(path)
    if not labels.is_file():
        return  # an image without objects
    try:
        lines = labels.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeError) as error:
        problems.append(f'{labels}: cannot be read ({error}): export it again')
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f'{labels.name}:{number}'
        try:
            index, *values = line.split()
            label = int(float(index))
            coordinates = [float(value) for value in values]
        except (ValueError, OverflowError):  # infinity has no integer
            problems.append(f'{labels}: line {number} is not a class and numbers: export it again')
            continue
        if not all(math.isfinite(value) for value in coordinates) or label < 0:
            builder.skip('objects left out, with a number that is not finite or negative', where)
            continue
        if named and label >= len(builder.classes):
            problems.append(
                f'{labels}: line {number} has class {label}, but only {len(builder.classes)} '
                'classes have names: complete the names'
            )
            continue
        if label >= _MOST_CLASSES:
            problems.append(
                f'{labels}: line {number} has class {label}, which is no plausible number of a '
                'class: export it again'
            )
            continue
        while len(builder.classes) <= label:
            builder.classes.append(str(len(builder.classes)))
        if has_points and len(coordinates) > 4:
            # The box stands first; the key points behind it would pass for a polygon.
            builder.skip('objects of which the key points are left out', where)
            coordinates = coordinates[:4]
        shape = _shape(coordinates, size)
        if shape is None:
            builder.skip('objects left out, neither a box nor a polygon', where)
        else:
            builder.add_object(image, builder.classes[label], [shape])


def _shape(values: list[float], size: tuple[int, int]) -> Shape | None:
    width, height = size
    if len(values) in (4, 5):  # 5: with the confidence of a prediction
        x, y, w, h = (v * s for v, s in zip(values, (width, height, width, height)))
        return Shape(box=(x - w / 2, y - h / 2, w, h))
    if len(values) >= 6 and len(values) % 2 == 0:
        return Shape(polygon=[v * (height if i % 2 else width) for i, v in enumerate(values)])
    return None
