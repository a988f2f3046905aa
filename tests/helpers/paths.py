"""Where the files of the checkout are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
TOOLS = ROOT / 'tools'

NARROW_CONFIG = CONFIGS / 'mask_rcnn_r18_gnws_narrow.py'
DIGITS_CONFIG = CONFIGS / 'mask_rcnn_r18_gnws_digits.py'
R50_CONFIG = CONFIGS / 'mask_rcnn_r50_gnws.py'
