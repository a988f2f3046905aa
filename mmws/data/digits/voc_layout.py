"""Write scenes in VOC layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from PIL import Image

from ..voc import VOID, voc_palette
from .scenes import Scene
from .settings import CLASSES


class VocWriter:
    """Writes the scenes of all splits as a VOC tree with masks and boxes."""

    def __init__(self, root: Path) -> None:
        self.root = root / 'VOCdevkit' / 'VOC2012'
        for name in ('JPEGImages', 'Annotations', 'SegmentationClass', 'SegmentationObject'):
            (self.root / name).mkdir(parents=True)
        self.palette = voc_palette().ravel().tolist()
        self.names: dict[str, list[str]] = {'train': [], 'val': []}

    def add(self, scene: Scene, split: str) -> None:
        self.names[split].append(scene.name)
        Image.fromarray(scene.image).save(
            self.root / 'JPEGImages' / f'{scene.name}.jpg', quality=95, subsampling=0
        )
        # The border lies outside of the instances only: it would eat most of a thin stroke.
        occupied = scene.instance_map > 0
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        border = cv2.dilate(occupied.astype(np.uint8), kernel).astype(bool) & ~occupied
        class_of = np.array([0, *(label + 1 for label in scene.labels)], np.uint8)
        self._save_labels('SegmentationObject', scene.name, scene.instance_map, border)
        self._save_labels('SegmentationClass', scene.name, class_of[scene.instance_map], border)
        self._save_boxes(scene)

    def _save_labels(self, folder: str, name: str, labels: np.ndarray, border: np.ndarray) -> None:
        image = Image.fromarray(np.where(border, np.uint8(VOID), labels))
        image.putpalette(self.palette)
        image.save(self.root / folder / f'{name}.png')

    def _save_boxes(self, scene: Scene) -> None:
        """Write the objects in the order of their numbers in the label image."""
        height, width, depth = scene.image.shape
        root = ElementTree.Element('annotation')

        def add(parent: ElementTree.Element, **children: Any) -> None:
            for tag, value in children.items():
                ElementTree.SubElement(parent, tag).text = str(value)

        add(root, folder='VOC2012', filename=f'{scene.name}.jpg')
        add(ElementTree.SubElement(root, 'source'), database='mmws digits')
        add(ElementTree.SubElement(root, 'size'), width=width, height=height, depth=depth)
        add(root, segmented=1)
        for label, mask in zip(scene.labels, scene.masks()):
            x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
            item = ElementTree.SubElement(root, 'object')
            add(item, name=CLASSES[label], pose='Unspecified', truncated=0, difficult=0)
            # VOC counts pixels from 1 and includes the last one.
            box = ElementTree.SubElement(item, 'bndbox')
            add(box, xmin=x + 1, ymin=y + 1, xmax=x + w, ymax=y + h)
        ElementTree.indent(root, '\t')
        ElementTree.ElementTree(root).write(self.root / 'Annotations' / f'{scene.name}.xml')

    def close(self) -> None:
        lists = {**self.names, 'trainval': self.names['train'] + self.names['val']}
        for task in ('Main', 'Segmentation'):
            folder = self.root / 'ImageSets' / task
            folder.mkdir(parents=True)
            for split, names in lists.items():
                (folder / f'{split}.txt').write_text(''.join(f'{name}\n' for name in names))
