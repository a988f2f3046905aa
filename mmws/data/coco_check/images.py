"""Find the image files that an annotation file names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..image_files import files_in
from .report import CocoReport


def check_files(report: CocoReport, img_dir: str | Path | None, split: str) -> dict[str, str]:
    """Find the folder of the images and the files missing in it.

    Args:
        report: Gets ``img_dir`` and the problems.
        img_dir: Folder of the images. ``None``: look for it near the annotation file.
        split: ``'train'`` or ``'val'``, which names folders to look for.

    Returns:
        For files that are there under another spelling: the name in the annotation file and the
        path relative to ``report.img_dir``.
    """
    if img_dir is not None:
        folders = [str(img_dir)]
    elif all(map(os.path.isabs, report.file_names)) and not _missing_files('', report.file_names):
        folders = [str(Path(report.path).parent)]  # any folder has them, also one that is not there
    else:
        folders = _likely_folders(Path(report.path), split)
    best: tuple[int, str, list[str], dict[str, str]] | None = None
    for folder in folders:
        missing = _missing_files(folder, report.file_names)
        respelled = _respelled(folder, missing) if missing and os.path.isdir(folder) else {}
        # A folder that has the files as they are written wins over one with other spellings.
        lost = 2 * len(missing) - len(respelled)
        if lost < (2 * len(report.file_names) if best is None else best[0]):
            best = lost, folder, missing, respelled
        if not missing:
            break
    if best is None:
        if img_dir is None:
            report.add('no_img_dir', [', '.join(folders)])
            return {}
        best = 0, str(img_dir), list(report.file_names), {}
    _, folder, missing, respelled = best
    report.img_dir = folder
    report.add(
        'spelled_otherwise',
        [f'{name} is {there}' for name, there in respelled.items()],
        f'in {report.img_dir}: ',
    )
    absent = [name for name in missing if name not in respelled]
    report.add('missing_images', absent, f'in {report.img_dir}: ')
    names = Counter(respelled.get(name, name) for name in report.file_names)
    report.add('repeated_files', [name for name, count in names.items() if count > 1], 'e.g. ')
    return respelled


def _likely_folders(json_path: Path, split: str) -> list[str]:
    here = json_path.parent
    # 'instances_train2017.json' -> 'train2017'
    stem = json_path.stem.rpartition('_')[2]
    of_split = [stem, split, f'{split}2017', f'images/{stem}', f'images/{split}']
    names = [*of_split, 'images', 'JPEGImages', 'img', '']
    # The file mostly lies in an 'annotations' folder next to the images; '' comes last, as the
    # folder of the other split may hold files of the same names.
    near = [here / name for name in names]
    around = [Path(os.path.normpath(here / '..' / name)) for name in names]
    return [str(folder) for folder in dict.fromkeys([*around[:-1], *near, around[-1]])]


def _missing_files(folder: str, file_names: Iterable[str]) -> list[str]:
    # One listing per folder: a stat per image takes minutes on network file systems.
    listings: dict[str, set[str]] = {}
    missing = []
    for file_name in file_names:
        subfolder, name = os.path.split(file_name)
        if subfolder not in listings:
            listings[subfolder] = _names_in(os.path.join(folder, subfolder))
        if name not in listings[subfolder]:
            missing.append(file_name)
    return missing


def _names_in(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (OSError, ValueError):
        return set()


def _respelled(folder: str, missing: Sequence[str]) -> dict[str, str]:
    """Return the files that are there with another case or separator, or without a prefix."""
    there: dict[str, str] = {}
    for file in files_in(folder):
        path = file.relative_to(folder).as_posix()
        there.setdefault(path.lower(), path)
    found = {}
    for file_name in missing:
        parts = file_name.replace('\\', '/').lower().split('/')
        # The longest end of the path that exists: only what stands before it is left out.
        ends = ('/'.join(parts[first:]) for first in range(len(parts)))
        match = next((there[end] for end in ends if end in there), None)
        if match is not None:
            found[file_name] = match
    return found
