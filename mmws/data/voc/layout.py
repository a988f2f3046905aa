"""What belongs to the layout of PASCAL VOC and SBD: classes, folders, colours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

VOC_CLASSES = (
    'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow',
    'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train',
    'tvmonitor',
)  # fmt: skip

VOID = 255  # VOC's label for pixels that belong to no class and are not scored


# Folders of images and of XML files, by VOC's devkit, by others, and all files in one folder.
_IMAGES = ('JPEGImages', 'images', 'Images', 'imgs', 'img', '')
_ANNOTATIONS = ('Annotations', 'annotations', 'labels', 'xmls', 'xml', '')


def image_folder(root: Path) -> Path:
    """Return the folder of the images in a tree of VOC's layout, or one that is like it."""
    return next(root / name for name in _IMAGES if (root / name).is_dir())


def annotation_folder(root: Path) -> Path:
    """Return the folder of the XML files; ``Annotations`` if there is no XML file anywhere."""
    for name in _ANNOTATIONS:
        if next((root / name).glob('*.xml'), None) is not None:
            return root / name
    return root / 'Annotations'


def is_voc(root: Path) -> bool:
    """Return whether a folder has the layout of PASCAL VOC, or XML files of its kind."""
    if (root / 'JPEGImages').is_dir():
        return True
    first = next(annotation_folder(root).glob('*.xml'), None)
    if first is None:
        return False
    try:
        return '<object>' in first.read_text('utf-8', 'ignore') or '<size>' in first.read_text()
    except (OSError, UnicodeError):
        return False


def is_sbd(root: Path) -> bool:
    """Return whether a folder has the layout of SBD."""
    return (root / 'inst').is_dir() and (root / 'img').is_dir()


def has_masks(root: str | Path) -> bool:
    """Return whether a VOC or SBD tree has instance masks."""
    return any(Path(root, folder).is_dir() for folder in ('SegmentationObject', 'inst'))


def conversion_hint(path: str | Path) -> str | None:
    """Return the command that writes an annotation file, if its VOC or SBD tree is there.

    Args:
        path: Perhaps ``<root>/annotations/{instances,boxes}_<split>.json``, the default output of
            :func:`convert_voc`.
    """
    path = Path(path)
    root = path.parent.parent
    kind, _, split = path.stem.partition('_')
    is_output = path.parent.name == 'annotations' and path.suffix == '.json'
    if not (is_output and split and kind in ('instances', 'boxes')):
        return None
    if not any((root / folder).is_dir() for folder in ('JPEGImages', 'inst')):
        return None
    boxes = ' --boxes' if kind == 'boxes' else ''
    command = 'python tools/dataset_converters/voc_instances.py'
    return f'{command} {os.path.relpath(root)} --splits {split}{boxes}'


def read_class_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return class names from the command line: as given, or from the one file given.

    Args:
        names: Names, or the path of a text file with one name a line. ``None`` stays ``None``.

    Raises:
        ValueError: if the file holds no text.
    """
    if names is None:
        return None
    if len(names) == 1 and os.path.isfile(names[0]):
        try:
            lines = Path(names[0]).read_text(encoding='utf-8-sig').splitlines()
        except UnicodeError:
            raise ValueError(f'`classes` {names[0]}: give a text file, one name a line') from None
        names = [line.strip() for line in lines if line.strip()]
    return tuple(names)


def voc_palette() -> np.ndarray:
    """Return the colour map of PASCAL VOC's label images, uint8 of shape (256, 3), RGB."""
    index = np.arange(256)
    palette = np.zeros((256, 3), int)
    # Bits 0, 1 and 2 of an index become the high bits of red, green and blue, and so on upwards.
    for bit in range(8):
        palette |= ((index[:, None] >> (3 * bit + np.arange(3))) & 1) << (7 - bit)
    return palette.astype(np.uint8)
