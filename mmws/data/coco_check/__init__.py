"""Read a COCO instances file and name what would break or silently spoil training on it.

The checks follow what ``mmdet.datasets.CocoDataset`` and pycocotools do with a file, so each kind
of problem says what becomes of the entries concerned.
"""

from .check import check_coco, check_entries
from .pixels import read_image_size
from .report import CocoReport, Problem

__all__ = ['CocoReport', 'Problem', 'check_coco', 'check_entries', 'read_image_size']
