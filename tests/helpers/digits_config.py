"""Configs that train on a few digits in seconds."""

from __future__ import annotations

from pathlib import Path

from mmws.data.digits import DigitsConfig, generate_digits
from tests.helpers.paths import DIGITS_CONFIG

_TEXT = """
_base_ = '{base}'
data_root = '{data}/'
train_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))
"""


def small_digits(root: Path, num_train: int, num_val: int, **options: object) -> Path:
    """Make a set of small scenes in ``root`` and return it."""
    sizes = dict(image_size=(128, 128), digit_size=(28, 64))
    config = DigitsConfig(num_train=num_train, num_val=num_val, **{**sizes, **options})
    return generate_digits(root, config)


def write_digits_config(path: Path, data: Path, more: str = '', base: Path = DIGITS_CONFIG) -> Path:
    """Write a config that trains ``base`` on the digits in ``data``, without workers.

    ``more`` is Python text that follows, such as a schedule.
    """
    path.write_text(_TEXT.format(base=base, data=data) + more)
    return path
