"""Build a COCO data set from images with polygons, boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from ..coco_check.masks import FAR
from ..rle import encode_masks


@dataclass
class Imported:
    """What an importer has read.

    Attributes:
        format: Name of the format, such as ``'YOLO'``.
        img_dir: Folder that file names are relative to.
        splits: COCO data sets by split: ``'train'`` and ``'val'``, or ``'all'`` where the format,
            or this data set, has no split.
        warnings: What was left out, one line each.
    """

    format: str
    img_dir: Path
    splits: dict[str, dict[str, Any]]
    warnings: list[str] = field(default_factory=list)


@dataclass
class Shape:
    """A part of an object: ``polygon``, ``box`` or ``mask``.

    Attributes:
        polygon: x0, y0, x1, y1, ... in pixels, where the top left pixel spans 0 to 1.
        box: x, y, width, height in pixels.
        mask: Boolean, of shape (H, W) of the whole image.
    """

    polygon: list[float] | None = None
    box: tuple[float, float, float, float] | None = None
    mask: np.ndarray | None = None

    def as_polygon(self) -> list[float] | None:
        """Return the outline of a polygon or a box."""
        if self.box is not None:
            x, y, w, h = self.box
            return [x, y, x + w, y, x + w, y + h, x, y + h]
        return self.polygon


class CocoBuilder:
    """Collects images and objects; :meth:`data` returns them as a COCO instances file holds them.

    Args:
        classes: Names of the classes, in order. New names are added behind them.
    """

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = list(classes)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.skipped: dict[str, list[str]] = {}

    def add_image(self, file_name: str, size: tuple[int, int]) -> dict[str, Any]:
        """Add an image of (width, height) and return its entry."""
        image = {
            'id': len(self.images) + 1,
            'file_name': file_name,
            'width': size[0],
            'height': size[1],
        }
        self.images.append(image)
        return image

    def skip(self, what: str, where: str) -> None:
        """Note something that cannot be imported."""
        self.skipped.setdefault(what, []).append(where)

    def warnings(self) -> list[str]:
        """Return a line for each kind of what was skipped."""
        return [
            f'{len(where)} {what}: {", ".join(where[:3])}{", ..." if len(where) > 3 else ""}'
            for what, where in self.skipped.items()
        ]

    def add_object(
        self, image: dict[str, Any], name: str, shapes: Sequence[Shape], crowd: bool = False
    ) -> None:
        """Add an object of one or several shapes to an image.

        A box alone gets no mask. Masks are kept as RLE, polygons as polygons. An object that
        reaches further than an image can is skipped: pycocotools, which draws it, would crash.
        """
        numbers = [value for shape in shapes for value in shape.as_polygon() or ()]
        if not all(-FAR < value < FAR for value in numbers):
            self.skip(
                f'objects left out, which reach further than {FAR:.0f} pixels', image['file_name']
            )
            return
        if name not in self.classes:
            self.classes.append(name)
        annotation: dict[str, Any] = {
            'id': len(self.annotations) + 1,
            'image_id': image['id'],
            'category_id': self.classes.index(name) + 1,
            'iscrowd': int(crowd),
        }
        if all(shape.box is not None for shape in shapes) and len(shapes) == 1:
            box = shapes[0].box or (0.0, 0.0, 0.0, 0.0)
            annotation |= {'bbox': list(box), 'area': box[2] * box[3]}
        else:
            height, width = image['height'], image['width']
            polygons = [shape.as_polygon() for shape in shapes]
            if any(shape.mask is not None for shape in shapes):
                union = np.zeros((height, width), bool)
                for shape, polygon in zip(shapes, polygons):
                    if shape.mask is not None:
                        union |= shape.mask
                    elif polygon is not None:
                        union |= _draw([polygon], height, width)
                rle = encode_masks(union[..., None])[0]
                annotation['segmentation'] = rle
                annotation['bbox'] = mask_utils.toBbox(rle).tolist()
                annotation['area'] = float(mask_utils.area(rle))
            else:
                outlines = [polygon for polygon in polygons if polygon is not None]
                annotation['segmentation'] = outlines
                points = np.array([value for outline in outlines for value in outline])
                xs = points[::2].clip(0, width)
                ys = points[1::2].clip(0, height)
                left, top = float(xs.min()), float(ys.min())
                annotation['bbox'] = [left, top, float(xs.max()) - left, float(ys.max()) - top]
                annotation['area'] = float(np.count_nonzero(_draw(outlines, height, width)))
        self.annotations.append(annotation)

    def data(self) -> dict[str, Any]:
        """Return the content of a COCO instances file."""
        return {
            'info': {'description': 'Imported by mmws'},
            'images': self.images,
            'annotations': self.annotations,
            'categories': [{'id': i, 'name': n} for i, n in enumerate(self.classes, start=1)],
        }


def _draw(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    """Return the mask of polygons, (H, W) bool."""
    rles = mask_utils.frPyObjects(polygons, height, width)
    return mask_utils.decode(mask_utils.merge(rles)).astype(bool)
