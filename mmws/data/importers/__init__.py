"""Read data sets of other formats as COCO data sets.

Each format is a module with ``is_<format>(path)``, quick, and ``import_<format>(path)``, which
returns :class:`Imported`; :data:`FORMATS` lists them in the order in which they are tried.
"""

from collections.abc import Callable
from pathlib import Path

from .builder import CocoBuilder, Imported, Shape
from .coco import class_names, find_coco, join_coco, read_coco
from .cvat import import_cvat, is_cvat
from .labelme import import_labelme, is_labelme
from .yolo import import_yolo, is_yolo

FORMATS: 'dict[str, tuple[Callable[[Path], bool], Callable[[Path], Imported]]]' = {
    'CVAT': (is_cvat, import_cvat),
    'YOLO': (is_yolo, import_yolo),
    'LabelMe': (is_labelme, import_labelme),
}

__all__ = [
    'FORMATS',
    'CocoBuilder',
    'Imported',
    'Shape',
    'class_names',
    'find_coco',
    'import_cvat',
    'import_labelme',
    'import_yolo',
    'join_coco',
    'read_coco',
]
