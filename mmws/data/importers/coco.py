"""Find COCO files in a folder, and join several that have no split."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..coco_check.reader import read_text
from ..errors import DataError
from ..image_files import files_in
from ..marks import is_marked

_WORDS = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val'}
_SCANNED = 4096  # bytes at either end of a file in which its lists are looked for


def find_coco(root: Path, written: bool = False) -> dict[str, list[Path]]:
    """Return the COCO instances files in a folder by split.

    The name of a file, or else of its folder, tells the split: ``instances_train.json``,
    ``valid/_annotations.coco.json``. Files named ``test`` are left out if there are others.

    Args:
        root: The folder, or a file.
        written: Whether to take files in the folder that mmws has written with a config, which
            otherwise hide the data that they were made of.

    Returns:
        ``'train'``, ``'val'`` and ``'all'`` with their files, without those that have none.
    """
    files = [root]
    if not root.is_file():
        files = [path for path in files_in(root, '.json') if written or not is_marked(path)]
    found: dict[str, list[Path]] = {}
    for path in files:
        if path.suffix == '.json' and looks_like_coco(path):
            found.setdefault(_split_of(path, root), []).append(path)
    test = found.pop('test', [])
    return found or ({'all': test} if test else {})


def looks_like_coco(path: Path) -> bool:
    """Return whether a JSON file has the three lists, by its ends and then by all of it."""
    keys = (b'"images"', b'"annotations"', b'"categories"')
    try:
        with path.open('rb') as file:
            head = file.read(_SCANNED)
            file.seek(max(0, os.path.getsize(path) - _SCANNED))
            if not any(key in head + file.read() for key in keys):
                return False
            file.seek(0)
            content = file.read()
    except OSError:
        return False
    return all(key in content for key in keys)


def _split_of(path: Path, root: Path) -> str:
    names = [path.stem] if path == root else [path.stem, *path.relative_to(root).parent.parts[::-1]]
    for name in names:
        for word in re.split(r'[^a-z]+', name.lower()):
            if word in _WORDS or word in ('test', 'testing'):
                return _WORDS.get(word, 'test')
    return 'all'


def read_coco(path: Path) -> dict[str, Any]:
    """Read a COCO file whole.

    Raises:
        DataError: if it cannot be read, or lacks a list.
    """
    try:
        data = json.loads(read_text(path)[0])
    except (OSError, ValueError, RecursionError) as error:
        raise DataError([f'{path}: cannot be read ({error}): export it again']) from None
    for name in ('images', 'annotations', 'categories'):
        entries = data.get(name) if isinstance(data, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise DataError([f'{path}: is not a COCO instances file: no list {name!r} of objects'])
    return data


def class_names(files: Iterable[dict[str, Any]]) -> list[str]:
    """Return the names of the categories of COCO data sets, each once."""
    names = (str(category.get('name')) for data in files for category in data['categories'])
    return list(dict.fromkeys(names))


def join_coco(
    files: Sequence[tuple[dict[str, Any], str]], classes: Sequence[str] = ()
) -> dict[str, Any]:
    """Join COCO data sets: categories by name, images and annotations renumbered.

    Args:
        files: Each data set, with what to put before its file names, unless they are absolute.
        classes: Names of categories that come first, in their order.

    Returns:
        The whole. Of an image that several sets name, the annotations are joined.
    """
    categories = {name: number for number, name in enumerate(classes, start=1)}
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for data, prefix in files:
        for category in data['categories']:
            categories.setdefault(str(category.get('name')), len(categories) + 1)
        names = {c.get('id'): str(c.get('name')) for c in data['categories']}
        here = {}
        for image in data['images']:
            name = str(image.get('file_name'))
            name = name if os.path.isabs(name) else prefix + name
            entry = images.setdefault(name, {**image, 'id': len(images) + 1, 'file_name': name})
            here[image.get('id')] = entry['id']
        for annotation in data['annotations']:
            category = names.get(annotation.get('category_id'))
            annotations.append(
                {
                    **annotation,
                    'id': len(annotations) + 1,
                    'image_id': here.get(annotation.get('image_id'), 0),
                    'category_id': categories[category] if category is not None else 0,
                }
            )
    return {
        'images': list(images.values()),
        'annotations': annotations,
        'categories': [{'id': i, 'name': name} for name, i in categories.items()],
    }
