"""Find out what a VOC or SBD tree holds, and choose its reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .boxes import BoxReader
from .layout import annotation_folder, has_masks, image_folder, is_sbd, is_voc
from .masks import MaskReader
from .objects import Contents
from .sbd import SbdReader


@dataclass
class VocTree:
    """Where a tree keeps its files, and how those of one image are read.

    Attributes:
        kind: ``'instances'`` or ``'boxes'``, which the names of the outputs begin with.
        images: Folder of the images.
        lists: Folder of the lists of splits.
        annotations: Folder of the annotation files, of which every image has one.
        classes: Class names.
        read: Takes the name of an image, its (width, height) and a function that notes an oddity.
    """

    kind: str
    images: Path
    lists: Path
    annotations: Path
    classes: tuple[str, ...]
    read: Callable[[str, tuple[int, int], Callable[[str, str], None]], Contents]


def open_tree(root: Path, classes: tuple[str, ...], boxes: bool | None) -> VocTree:
    """Return the tree in a folder; see :func:`convert_voc` for the arguments and errors."""
    if is_sbd(root):
        if boxes:
            raise ValueError(f'`boxes=True`: {root} is SBD, which has masks only')
        return VocTree(
            'instances', root / 'img', root, root / 'inst', classes, SbdReader(root, classes)
        )
    if not is_voc(root):
        inner = [p for p in _folders_in(root) if is_voc(p) or is_sbd(p)]
        raise FileNotFoundError(
            f'{root} has neither JPEGImages (VOC) nor img and inst (SBD)'
            + (f': did you mean {inner[0]}?' if inner else '')
        )
    if boxes is None:
        boxes = not has_masks(root)
    if boxes:
        images, annotations = image_folder(root), annotation_folder(root)
        reader = BoxReader(annotations, classes)
        return VocTree('boxes', images, root / 'ImageSets' / 'Main', annotations, classes, reader)
    if not has_masks(root):
        raise FileNotFoundError(
            f'{root} has no SegmentationObject, which masks are read from: for boxes alone take '
            '`boxes=True`, or a `base` without a mask head'
        )
    lists = root / 'ImageSets' / 'Segmentation'
    return VocTree(
        'instances',
        image_folder(root),
        lists,
        root / 'SegmentationObject',
        classes,
        MaskReader(root, classes),
    )


def _folders_in(root: Path) -> list[Path]:
    return [path for pattern in ('*', '*/*') for path in sorted(root.glob(pattern))]
