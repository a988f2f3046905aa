"""Find the image files, and compare them with what the annotation file says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from .report import CocoReport

_OPENED_IMAGES = 200  # spread over the file; opening all of COCO takes minutes

_EXIF_ORIENTATION = 274  # 5 to 8: turned by a quarter when read


def check_files(report: CocoReport, img_dir: str | Path | None, split: str) -> None:
    """Find the folder of the images and the files missing in it."""
    folders = [str(img_dir)] if img_dir is not None else _likely_folders(Path(report.path), split)
    missing: Sequence[str] = report.file_names
    for folder in folders:
        missing_here = _missing_files(folder, report.file_names)
        if len(missing_here) < len(missing):
            report.img_dir, missing = folder, missing_here
        if not missing:
            return
    if img_dir is None and report.img_dir is None:
        report.add('no_img_dir', [', '.join(folders)])
        return
    report.img_dir = report.img_dir or str(img_dir)
    report.add('missing_images', missing, f'in {report.img_dir}: ')


def check_some_images(report: CocoReport, images: list[dict]) -> None:
    """Compare files with the sizes in the annotation file; only headers are read."""
    bad, odd = [], []
    for image in images[:: max(1, len(images) // _OPENED_IMAGES)]:
        name = image['file_name']
        path = os.path.join(report.img_dir or '', name)
        if not os.path.exists(path):
            continue  # reported already
        try:
            width, height = read_image_size(path)
        except Exception:  # each format has errors of its own
            bad.append(name)
            continue
        if (width, height) != (image['width'], image['height']):
            odd.append(f'{name} is {width}x{height}')
    report.add('bad_images', bad, f'of a sample, in {report.img_dir}: ')
    report.add('image_sizes', odd, 'of a sample: ')


def read_image_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) of an image file as MMDetection reads it, from its header.

    Raises:
        OSError: if the file is missing or no image; it names the file.
    """
    try:
        with Image.open(path) as file:
            width, height = file.size
            turned = file.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    except OSError as error:
        if str(path) in str(error):
            raise
        raise OSError(f'image {path} cannot be read: {error}') from error
    return (height, width) if turned else (width, height)


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
    except OSError:
        return set()
