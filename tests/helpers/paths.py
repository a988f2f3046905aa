"""Where the files of the checkout are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
TOOLS = ROOT / 'tools'
# Folders of `configs/` that hold no detectors.
NO_DETECTORS = ('_base_', 'study', 'imagenet', 'voc_segmentation')

NARROW_CONFIG = CONFIGS / 'mask_rcnn_r18_gnws_narrow.py'
DIGITS_CONFIG = CONFIGS / 'mask_rcnn_r18_gnws_digits.py'
R50_CONFIG = CONFIGS / 'mask_rcnn_r50_gnws.py'
