"""Read the list of a split, and the files of each of its images."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from ..coco_check import read_image_size
from ..image_files import IMAGE_SUFFIXES
from .objects import BrokenFileError, Contents
from .tree import VocTree

EVERY_IMAGE = 'all'  # instead of the name of a list: all images that have an annotation

_ANNOTATIONS = ('.xml', '.png', '.mat')

_SECOND_COLUMN = re.compile(r'\s+(-1|0|1)$')  # of lists of single classes: without, unsure, with it


def read_split(
    tree: VocTree, split: str, oddities: dict[str, list[str]], problems: list[BrokenFileError]
) -> Iterator[tuple[str, tuple[int, int], str, Contents]]:
    """Yield (name, (width, height), file name, contents) of each sound image of a split."""

    def note(what: str, where: str) -> None:
        oddities.setdefault(what, []).append(where)

    files = _image_files(tree.images)
    if split == EVERY_IMAGE:
        annotated = annotated_names(tree)
        names = [name for name in annotated if name in files]
        for name in annotated:
            if name not in files:
                note('annotation files without an image, which are left out', name)
        if not names:
            what = 'no annotation file here has an image of its name'
            remedy = f'put the images into {tree.images}'
            problems.append(BrokenFileError(tree.annotations, what, remedy))
        note_bare = sorted(set(files) - set(names))
        if note_bare:
            oddities['images without an annotation file, which are left out'] = note_bare
    else:
        names = _names(tree, split, files, problems)
    for name in tqdm(names, desc=split, unit='image', disable=None):
        if name not in files:
            remedy = 'put it there, or take it off the list'
            problems.append(BrokenFileError(tree.images / f'{name}.jpg', 'missing', remedy))
            continue
        path = tree.images / files[name]
        try:
            size = read_image_size(path)
        except Exception as error:  # each format has errors of its own
            what = f'cannot be read ({error})'
            problems.append(BrokenFileError(path, what, 'get the file again'))
            continue
        try:
            yield name, size, files[name], tree.read(name, size, note)
        except BrokenFileError as error:
            problems.append(error)


def annotated_names(tree: VocTree) -> list[str]:
    """Return the names of all annotation files, in order."""
    return sorted({p.stem for p in tree.annotations.iterdir() if p.suffix in _ANNOTATIONS})


def _names(
    tree: VocTree, split: str, files: Container[str], problems: list[BrokenFileError]
) -> list[str]:
    path = tree.lists / f'{split}.txt'
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()  # Windows' editors mark UTF-8
    except (OSError, UnicodeError) as error:
        others = sorted(p.stem for p in tree.lists.glob('*.txt'))
        remedy = (
            f'`splits` takes {", ".join(others)}'
            if others
            else 'write one image name a line, or split the images with `val_fraction`'
        )
        reason = getattr(error, 'strerror', None) or error
        problems.append(BrokenFileError(path, f'cannot be read ({reason})', remedy))
        return []
    entries = [line.strip() for line in lines if line.strip()]
    names = list(dict.fromkeys(_name(entry, files) for entry in entries))
    if not names:
        problems.append(BrokenFileError(path, 'empty split', 'write one image name a line'))
    return names


def _name(entry: str, files: Container[str]) -> str:
    """Return the name of an image in a line of a list."""
    # Lists of single classes have a second column. Names may have spaces, or numbers at their end.
    for name in (entry, _SECOND_COLUMN.sub('', entry)):
        file = PurePosixPath(name.replace('\\', '/'))
        # Some tools write the file's name, or its path, instead of the name without extension.
        is_file = file.suffix.lower() in IMAGE_SUFFIXES
        for form in (name, file.stem if is_file else file.name):
            if form in files:
                return form
    return _SECOND_COLUMN.sub('', entry)


def _image_files(folder: Path) -> dict[str, str]:
    """Return name -> file name of the images in a folder, listed once."""
    files: dict[str, str] = {}
    with os.scandir(folder) as entries:
        found = [os.path.splitext(entry.name) for entry in entries]
    for suffix in IMAGE_SUFFIXES:  # the first one found of an image's name
        for stem, end in sorted(found):
            if end.lower() == suffix:
                files.setdefault(stem, stem + end)
    return files
