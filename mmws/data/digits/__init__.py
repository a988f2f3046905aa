"""A small instance-segmentation set: real handwritten digits on procedural textures.

The digits are the 1797 images of :func:`sklearn.datasets.load_digits`, so nothing is downloaded.
The set is written in COCO layout and, by option, in VOC layout too. The single digits can be
written as folders of images, for classification.
"""

from .generate import generate_digits, is_up_to_date
from .polygons import mask_to_polygons
from .scenes import Scene, render_scenes
from .settings import CLASSES, DigitsConfig
from .single import write_single_digits

__all__ = [
    'CLASSES',
    'DigitsConfig',
    'Scene',
    'generate_digits',
    'is_up_to_date',
    'mask_to_polygons',
    'render_scenes',
    'write_single_digits',
]
