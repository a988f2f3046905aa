"""Read the masks of ``SegmentationObject`` and their classes of ``SegmentationClass``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .boxes import BoxReader
from .difficult import mark_difficult
from .layout import VOID, annotation_folder
from .objects import MISSING, NAME_ALL, BrokenFileError, Contents, objects_of_labels, require_size


class MaskReader:
    """Instances of ``SegmentationObject``, their classes of ``SegmentationClass``."""

    def __init__(self, root: Path, classes: tuple[str, ...]) -> None:
        self.root = root
        self.classes = classes
        self.boxes = BoxReader(annotation_folder(root), classes)

    def __call__(
        self, name: str, size: tuple[int, int], note: Callable[[str, str], None]
    ) -> Contents:
        path = self.root / 'SegmentationObject' / f'{name}.png'
        class_path = self.root / 'SegmentationClass' / f'{name}.png'
        instance_map = _read_labels(path, size)
        classes_of = _class_histogram(instance_map, _read_labels(class_path, size))
        ids = [int(i) for i in np.flatnonzero(classes_of.any(1)) if i not in (0, VOID)]
        labels = [self._label(class_path, i, classes_of[i]) for i in ids]
        for i in ids:
            if np.count_nonzero(classes_of[i, 1:VOID]) > 1:
                note('instances of several classes, of which the largest is taken', f'{path} {i}')
        objects = objects_of_labels(instance_map, ids, labels)

        annotation = self.boxes.folder / f'{name}.xml'
        if annotation.exists():  # without it no object is difficult
            drawn = self.boxes.objects(annotation, size, note)
            objects = mark_difficult(objects, drawn, instance_map == VOID, annotation, note)
        border = int(np.count_nonzero(instance_map == VOID))
        return Contents(objects, border, instance_map.size)

    def _label(self, path: Path, index: int, histogram: np.ndarray) -> int:
        """Return the most frequent class of an instance, from its pixels per class, ``(256,)``."""
        label = int(histogram[1:VOID].argmax())
        if not histogram[1:VOID].any():
            raise BrokenFileError(
                path,
                f'no class where SegmentationObject has instance {index}',
                'correct one of the two',
            )
        if label >= len(self.classes):
            raise BrokenFileError(
                path, f'unknown class {label + 1} of {len(self.classes)}', NAME_ALL
            )
        return label


def _read_labels(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a label image, ``(H, W)`` uint8."""
    try:
        with Image.open(path) as image:
            mode, labels = image.mode, np.array(image)
    except FileNotFoundError:
        raise BrokenFileError(path, 'missing', MISSING) from None
    except Exception as error:  # Pillow's errors are of many kinds
        raise BrokenFileError(path, f'cannot be read ({error})', 'get the file again') from None
    if mode not in ('P', 'L'):
        raise BrokenFileError(
            path,
            f'colours ({mode}) instead of labels',
            'save it as a palette or grey image whose values are the labels',
        )
    require_size(path, labels.shape[::-1], size)
    return labels


def _class_histogram(instance_map: np.ndarray, class_map: np.ndarray) -> np.ndarray:
    """Count the pixels of each pair of instance and class: ``(256, 256)``."""
    pairs = instance_map.astype(np.int64) * 256 + class_map
    return np.bincount(pairs.ravel(), minlength=256 * 256).reshape(256, 256)
