"""Convert PASCAL VOC and SBD trees to COCO instances files.

A VOC tree has the layout of http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html,
SBD that of http://home.bharathh.info/pubs/codes/SBD/download.html (``dataset/`` of its archive).
"""

from .convert import VocReport, convert_voc
from .layout import (
    VOC_CLASSES,
    VOID,
    conversion_hint,
    has_masks,
    is_sbd,
    is_voc,
    read_class_names,
    voc_palette,
)

__all__ = [
    'VOC_CLASSES',
    'VOID',
    'VocReport',
    'conversion_hint',
    'convert_voc',
    'has_masks',
    'is_sbd',
    'is_voc',
    'read_class_names',
    'voc_palette',
]
