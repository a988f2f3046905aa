"""What was found in one annotation file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .kinds import KINDS


@dataclass(frozen=True)
class Problem:
    """One kind of problem in one annotation file.

    Attributes:
        kind: Short name, a key of :data:`KINDS`, e.g. ``'empty_boxes'``.
        severity: ``'error'``: training would crash or be wrong; ``'warning'``: data are lost.
        count: How many entries have it.
        examples: The first three of them.
        text: The problem and its remedy in one line that begins with the file.
    """

    kind: str
    severity: str
    count: int
    examples: tuple[str, ...]
    text: str

    @property
    def mended(self) -> bool:
        """Whether :func:`mmws.data.mend.mend_coco` can correct it."""
        return KINDS[self.kind].mended


@dataclass
class CocoReport:
    """What an annotation file holds.

    Attributes:
        path: The annotation file.
        img_dir: Folder its file names are relative to; ``None`` if not found.
        classes: Class names; ``classes[i]`` is MMDetection's label ``i``.
        counts: Annotations of each class, in the order of ``classes``.
        file_names: ``file_name`` of each image.
        sizes: Width and height of each image, in pixels.
        instances: Number of annotations, crowds included.
        crowds: Number of annotations with ``iscrowd``.
        rle_masks: Number of masks given as RLE, crowds excluded.
        masks: Number of annotations that have a mask.
        images_with_instances: Number of images with an annotation of a known category.
        min_side: Shortest side of all images, in pixels.
        object_sides: Geometric mean of width and height of the boxes, in pixels: percentiles 5,
            25, 50, 75 and 95; empty without boxes.
        max_objects: Most objects in an image.
        problems: What is wrong, worst first.
    """

    path: str
    img_dir: str | None = None
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    file_names: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    instances: int = 0
    crowds: int = 0
    rle_masks: int = 0
    masks: int = 0
    images_with_instances: int = 0
    min_side: int = 0
    object_sides: tuple[float, ...] = ()
    max_objects: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.file_names)

    def add(
        self,
        kind: str,
        found: Iterable[Any],
        where: str = '',
        what: str | None = None,
        remedy: str | None = None,
    ) -> None:
        """Add a problem unless ``found`` is empty.

        Args:
            kind: A key of :data:`KINDS`.
            found: The entries that have it, as the user knows them.
            where: What to write before the examples; without it their number is left out too.
            what: Said instead of the kind's ``what``.
            remedy: Said instead of the kind's ``remedy``.
        """
        found = list(found)
        if not found:
            return
        entry = KINDS[kind]
        examples = tuple(_shown(value) for value in found[:3])
        what = what or entry.what
        what = f'{len(found)} {what}' if where else what
        more = ', ...' if len(found) > len(examples) else ''
        named = f' ({where}{", ".join(examples)}{more})' if where or examples[0] else ''
        text = f'{self.path}: {what}{named}: {remedy or entry.remedy}'
        self.problems.append(Problem(kind, entry.severity, len(found), examples, _shown(text)))
        self.problems.sort(key=lambda problem: problem.severity)


def _shown(value: Any) -> str:
    """Return a value as text that any terminal takes: no line ends, no half characters."""
    text = str(value).encode('utf-8', 'backslashreplace').decode('utf-8')
    return ' '.join(text.split())
