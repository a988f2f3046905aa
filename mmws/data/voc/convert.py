"""Check a VOC or SBD tree and write each split as a COCO instances file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from mmws.files import replacing

from ..errors import DataError
from .boxes import find_classes
from .layout import VOID
from .objects import BrokenFileError, VocObject, problem_lines
from .splits import read_split
from .tree import VocTree, open_tree

_DESCRIPTION = 'Converted from VOC layout by mmws'


@dataclass
class VocReport:
    """What one split of a VOC tree holds.

    Attributes:
        split: Name of the split.
        path: The COCO file written for it.
        img_dir: Folder of its images.
        classes: Class names.
        counts: Instances of each class, ``difficult`` ones excluded, in the order of ``classes``.
        difficult: ``difficult`` instances of each class.
        images: Number of images.
        empty_images: Names of images without an instance.
        border_pixels: Pixels of label 255.
        pixels: Pixels of all label images; 0 where only boxes were read.
        warnings: What was left out or looks odd, one line each.
    """

    split: str
    path: str
    img_dir: str
    classes: tuple[str, ...]
    counts: list[int]
    difficult: list[int]
    images: int = 0
    empty_images: list[str] = field(default_factory=list)
    border_pixels: int = 0
    pixels: int = 0
    warnings: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the report as lines for the terminal."""
        border = (
            f', border {self.border_pixels:,} pixels ({self.border_pixels / self.pixels:.1%})'
            if self.pixels
            else ', boxes only'
        )
        lines = [
            f'{self.split}: {self.images} images ({len(self.empty_images)} empty), '
            f'{sum(self.counts)} instances and {sum(self.difficult)} difficult ones{border}',
            f'{"instances":>11} {"difficult":>9}  class',
            *(
                f'{count:>11} {difficult:>9}  {name}'
                for count, difficult, name in zip(self.counts, self.difficult, self.classes)
            ),
            *(f'warning: {warning}' for warning in self.warnings),
            f'wrote {self.path}; images in {self.img_dir}',
        ]
        return '\n'.join(lines)


def convert_voc(
    root: str | Path,
    splits: Sequence[str] = ('train', 'val'),
    classes: Sequence[str] | None = None,
    boxes: bool | None = None,
    out_dir: str | Path | None = None,
) -> list[VocReport]:
    """Check a VOC or SBD tree and write each split as a COCO instances file.

    Masks are those of the label images, exactly, without the border of label 255; an instance's box
    is the tightest around its mask. Boxes of ``Annotations`` are VOC's, which count pixels from 1
    and include the last one: ``[xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]``.

    VOC scores ``difficult`` objects neither as hits nor as misses. They become ``"iscrowd": 1``,
    which COCO evaluation ignores likewise and training does not learn from, and ``"difficult": 1``,
    by which :class:`mmws.VOCMetric` applies VOC's own rule. One belongs to the mask of its class
    whose box overlaps its own most; where VOC has painted it over with the border's label, its mask
    is that label within its box.

    One image is in memory at a time.

    Args:
        root: The folder that holds ``JPEGImages`` (VOC), or ``img`` and ``inst`` (SBD).
        splits: Names of lists: ``ImageSets/Segmentation/<split>.txt``,
            ``ImageSets/Main/<split>.txt`` for boxes, or SBD's ``<split>.txt``. ``'all'`` is every
            image that has an annotation, and needs no list.
        classes: Class names; ``classes[i]`` is label ``i + 1`` of ``SegmentationClass``. ``None``:
            the 20 of VOC, or those of the XML files where these have others.
        boxes: Read the boxes of ``Annotations`` and no masks. ``None``: where there are no masks.
        out_dir: Folder for ``instances_<split>.json``, or ``boxes_<split>.json`` without masks;
            ``<root>/annotations`` if ``None``.

    Returns:
        One report for each split.

    Raises:
        DataError: naming every broken file of the tree; more than two with the same problem share a
            line. Nothing is written.
        FileExistsError: if an output exists that this function did not write.
        FileNotFoundError: if ``root`` is no such tree.
        ImportError: if SBD is read without SciPy.
        ValueError: if ``classes`` are not unique, or ``boxes`` does not suit the tree.
    """
    if classes is None:
        classes = find_classes(Path(root))
    classes = tuple(classes)
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated or not 0 < len(classes) < VOID:
        raise ValueError(
            f'`classes`: {repeated[0]!r} is named twice'
            if repeated
            else f'`classes`: 1 to {VOID - 1} names are wanted, got {len(classes)}'
        )
    splits = list(dict.fromkeys(splits))
    if not splits:
        raise ValueError('`splits`: name at least one split')
    tree = open_tree(Path(root), classes, boxes)
    out_dir = Path(root, 'annotations') if out_dir is None else Path(out_dir)
    outputs = [out_dir / f'{tree.kind}_{split}.json' for split in splits]
    for path in outputs:
        _require_replaceable(path)

    problems: list[BrokenFileError] = []
    converted = [
        _convert_split(tree, split, str(path), problems) for split, path in zip(splits, outputs)
    ]
    if problems:
        raise DataError(problem_lines(problems))
    _write_all({report.path: data for report, data in converted})
    return [report for report, _ in converted]


def _convert_split(
    tree: VocTree, split: str, path: str, problems: list[BrokenFileError]
) -> tuple[VocReport, dict]:
    """Return the report on a split and the content of its COCO file; extend ``problems``."""
    zeros = [0] * len(tree.classes)
    report = VocReport(split, path, str(tree.images), tree.classes, zeros, list(zeros))
    oddities: dict[str, list[str]] = {}
    images: list[dict] = []
    annotations: list[dict] = []
    for name, size, file_name, contents in read_split(tree, split, oddities, problems):
        image_id = len(images) + 1
        images.append({'id': image_id, 'file_name': file_name, 'width': size[0], 'height': size[1]})
        for item in contents.objects:
            (report.difficult if item.difficult else report.counts)[item.label] += 1
            annotations.append(_annotation(len(annotations) + 1, image_id, item))
        report.border_pixels += contents.border_pixels
        report.pixels += contents.pixels
        if not contents.objects:
            report.empty_images.append(name)
    report.images = len(images)
    if report.empty_images:
        oddities['images without an instance'] = report.empty_images
    report.warnings = [
        f'{len(where)} {what}: {", ".join(where[:3])}{", ..." if len(where) > 3 else ""}'
        for what, where in oddities.items()
    ]
    data = {
        'info': {'description': _DESCRIPTION},
        'images': images,
        'annotations': annotations,
        'categories': [{'id': i, 'name': name} for i, name in enumerate(tree.classes, start=1)],
    }
    return report, data


def _annotation(annotation_id: int, image_id: int, item: VocObject) -> dict:
    annotation = {
        'id': annotation_id,
        'image_id': image_id,
        'category_id': item.label + 1,
        'bbox': [float(value) for value in item.box],
        'area': item.area,
        'iscrowd': int(item.difficult),
        'difficult': int(item.difficult),
    }
    if item.rle is not None:
        annotation['segmentation'] = item.rle
    return annotation


def _require_replaceable(path: Path) -> None:
    """Raise unless ``path`` is absent or was written by this module."""
    if not path.exists():
        return
    with path.open('rb') as file:
        head = file.read(200)
    if _DESCRIPTION.encode() not in head:
        raise FileExistsError(f'{path} exists and is not of this converter: give another `out`')


def _write_all(contents: dict[str, dict]) -> None:
    """Write JSON files, each complete or not at all, and none before all are on the disk."""
    with ExitStack() as stack:
        for path, data in contents.items():
            draft = stack.enter_context(replacing(Path(path)))
            draft.write_text(json.dumps(data), encoding='utf-8')
