"""Read the list of a split, and the files of each of its images."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator
from pathlib import Path

from tqdm import tqdm

from ..coco_check import read_image_size
from .objects import BrokenFileError, Contents
from .tree import VocTree

_IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp')  # the first one found of an image's name

_SECOND_COLUMN = re.compile(r'\s+(-1|0|1)$')  # of lists of single classes: without, unsure, with it


def read_split(
    tree: VocTree, split: str, oddities: dict[str, list[str]], problems: list[str]
) -> Iterator[tuple[str, tuple[int, int], str, Contents]]:
    """Yield (name, (width, height), file name, contents) of each sound image of a split."""

    def note(what: str, where: str) -> None:
        oddities.setdefault(what, []).append(where)

    files = _image_files(tree.images)
    names = _names(tree, split, files, problems)
    for name in tqdm(names, desc=split, unit='image', disable=None):
        if name not in files:
            problems.append(
                f'{tree.images / name}.jpg: missing: put it there, or take it off the list'
            )
            continue
        path = tree.images / files[name]
        try:
            size = read_image_size(path)
        except Exception as error:  # each format has errors of its own
            problems.append(f'{path}: cannot be read ({error}): get the file again')
            continue
        try:
            yield name, size, files[name], tree.read(name, size, note)
        except BrokenFileError as error:
            problems.append(str(error))


def _names(tree: VocTree, split: str, files: Container[str], problems: list[str]) -> list[str]:
    path = tree.lists / f'{split}.txt'
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()  # Windows' editors mark UTF-8
    except (OSError, UnicodeError) as error:
        others = sorted(p.stem for p in tree.lists.glob('*.txt'))
        remedy = f'`splits` takes {", ".join(others)}' if others else 'write one image name a line'
        reason = getattr(error, 'strerror', None) or error
        problems.append(f'{path}: cannot be read ({reason}): {remedy}')
        return []
    # Lists of single classes have a second column. Names may have spaces, or numbers at their end.
    entries = [line.strip() for line in lines if line.strip()]
    names = list(
        dict.fromkeys(
            entry if entry in files else _SECOND_COLUMN.sub('', entry) for entry in entries
        )
    )
    if not names:
        problems.append(f'{path}: empty split: write one image name a line')
    return names


def _image_files(folder: Path) -> dict[str, str]:
    """Return name -> file name of the images in a folder, listed once."""
    files: dict[str, str] = {}
    with os.scandir(folder) as entries:
        found = [os.path.splitext(entry.name) for entry in entries]
    for suffix in _IMAGE_SUFFIXES:
        for stem, end in sorted(found):
            if end.lower() == suffix:
                files.setdefault(stem, stem + end)
    return files
