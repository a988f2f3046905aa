"""Write scenes in COCO layout."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from pycocotools import mask as mask_utils

from ..rle import encode_masks
from .polygons import mask_to_polygons
from .scenes import Scene
from .settings import CLASSES, VERSION


class CocoWriter:
    """Writes the scenes of one split as PNG files and a COCO instances file."""

    def __init__(self, root: Path, split: str, mask_format: str) -> None:
        self.folder = root / split
        self.folder.mkdir()
        self.file = root / 'annotations' / f'instances_{split}.json'
        self.file.parent.mkdir(exist_ok=True)
        self.mask_format = mask_format
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add(self, scene: Scene) -> None:
        file_name = f'{scene.name}.png'
        Image.fromarray(scene.image).save(self.folder / file_name)
        height, width = scene.instance_map.shape
        image_id = len(self.images) + 1
        self.images.append(
            {'id': image_id, 'file_name': file_name, 'width': width, 'height': height}
        )
        for label, sample, mask in zip(scene.labels, scene.samples, scene.masks()):
            (rle,) = encode_masks(mask[..., None])
            self.annotations.append(
                {
                    'id': len(self.annotations) + 1,
                    'image_id': image_id,
                    'category_id': label + 1,
                    'bbox': mask_utils.toBbox(rle).tolist(),
                    'area': int(mask_utils.area(rle)),
                    'iscrowd': 0,
                    'segmentation': rle if self.mask_format == 'rle' else mask_to_polygons(mask),
                    'sample': sample,  # not of COCO: index into sklearn.datasets.load_digits
                }
            )

    def close(self) -> None:
        content = {
            'info': {
                'description': 'Handwritten digits on procedural textures, made by mmws',
                'version': str(VERSION),
            },
            'licenses': [],
            'images': self.images,
            'annotations': self.annotations,
            'categories': [
                {'id': i, 'name': name, 'supercategory': 'digit'}
                for i, name in enumerate(CLASSES, start=1)
            ],
        }
        self.file.write_text(json.dumps(content) + '\n')
