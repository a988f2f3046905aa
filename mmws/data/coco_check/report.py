"""Kinds of problems, and what was found in one annotation file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

# kind -> (severity, what is wrong, what to do or what becomes of it). An error crashes training or
# spoils it silently; a warning costs data.
_KINDS = {
    'unreadable': ('error', 'cannot be read', 'give the path of a JSON annotation file'),
    'not_coco': (
        'error',
        'is not a COCO instances file',
        "it must be an object with the lists 'images', 'annotations' and 'categories'",
    ),
    'bad_entries': (
        'error',
        'entries lack a field or have a wrong value in it',
        'MMDetection reads these fields of every entry: add them',
    ),
    'duplicate_categories': (
        'error',
        'category ids or names used twice',
        'MMDetection selects categories by name: make ids and names unique',
    ),
    'duplicate_image_ids': ('error', 'image ids used twice', 'renumber the images'),
    'duplicate_annotation_ids': ('error', 'annotation ids used twice', 'renumber the annotations'),
    'unknown_categories': (
        'error',
        "annotations whose category_id is not in 'categories'",
        'they would be dropped without a word: add the categories or remove the annotations',
    ),
    'no_annotations': (
        'error',
        'no annotation that can be trained on or evaluated',
        'boxes must be [x, y, width, height] in pixels, at least 1x1, inside their image',
    ),
    'no_masks': (
        'error',
        'annotations without a mask while the base config trains masks',
        "add 'segmentation' (a list of polygons, or RLE), or take a `base` without a mask head",
    ),
    'mask_sizes': (
        'error',
        'RLE masks of another size than their image',
        "make 'size' of the mask the image's [height, width]",
    ),
    'bad_masks': (
        'warning',
        'masks with a polygon of fewer than 3 points or an odd number of coordinates',
        'training ignores such polygons, COCO evaluation fails on them: remove them',
    ),
    'no_img_dir': (
        'error',
        'its images are in none of the folders tried',
        'name the folder with `img_dirs`',
    ),
    'missing_images': (
        'error',
        'image files are missing',
        'put them there, or name the folder with `img_dirs`',
    ),
    'bad_images': (
        'error',
        'image files cannot be read',
        'training stops at them: replace them, or remove them from the file',
    ),
    'image_sizes': (
        'error',
        "images whose size is not their 'width' and 'height'",
        'masks and boxes would be misplaced: write the sizes of the files',
    ),
    'no_iscrowd': (
        'warning',
        "annotations without 'iscrowd'",
        'COCO evaluation fails without it: add "iscrowd": 0',
    ),
    'unknown_images': (
        'warning',
        "annotations whose image_id is not in 'images'",
        'they are ignored',
    ),
    'empty_boxes': ('warning', 'boxes with a width or height <= 0', 'training drops them'),
    'tiny_boxes': ('warning', 'boxes below 1x1 pixel or with an area <= 0', 'training drops them'),
    'outside_boxes': ('warning', 'boxes entirely outside their image', 'training drops them'),
    'partly_outside_boxes': (
        'warning',
        'boxes more than 1 pixel over the edge of their image',
        'check the image sizes; are the boxes [x, y, width, height]?',
    ),
    'images_without_annotations': (
        'warning',
        'images without annotations',
        'training skips them unless filter_cfg.filter_empty_gt=False',
    ),
}


@dataclass(frozen=True)
class Problem:
    """One kind of problem in one annotation file.

    Attributes:
        kind: Short name, e.g. ``'empty_boxes'``.
        severity: ``'error'``: training would crash or be wrong; ``'warning'``: data are lost.
        count: How many entries have it.
        examples: The first few of them.
        text: The problem and its remedy in one line that begins with the file.
    """

    kind: str
    severity: str
    count: int
    examples: tuple[str, ...]
    text: str


@dataclass
class CocoReport:
    """What an annotation file holds.

    Attributes:
        path: The annotation file.
        img_dir: Folder its file names are relative to; ``None`` if not found.
        classes: Class names; ``classes[i]`` is MMDetection's label ``i``.
        counts: Annotations of each class, in the order of ``classes``.
        file_names: ``file_name`` of each image.
        instances: Number of annotations, crowds included.
        crowds: Number of annotations with ``iscrowd``.
        rle_masks: Number of masks given as RLE, crowds excluded.
        images_with_instances: Number of images with an annotation of a known category.
        min_side: Shortest side of all images, in pixels.
        problems: What is wrong, worst first.
    """

    path: str
    img_dir: str | None = None
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    file_names: tuple[str, ...] = ()
    instances: int = 0
    crowds: int = 0
    rle_masks: int = 0
    images_with_instances: int = 0
    min_side: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.file_names)

    def add(self, kind: str, found: Iterable[Any], where: str = '') -> None:
        """Add a problem of ``kind`` unless ``found``, the entries that have it, is empty."""
        found = list(found)
        if not found:
            return
        severity, what, remedy = _KINDS[kind]
        examples = tuple(str(entry) for entry in found[:3])
        what = f'{len(found)} {what}' if where else what
        more = ', ...' if len(found) > len(examples) else ''
        named = f' ({where}{", ".join(examples)}{more})' if where or examples[0] else ''
        text = f'{self.path}: {what}{named}: {remedy}'
        self.problems.append(Problem(kind, severity, len(found), examples, text))
        self.problems.sort(key=lambda problem: problem.severity)
