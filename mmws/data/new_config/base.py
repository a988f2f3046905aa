"""The config that a new config inherits from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmws.config import read_config
from mmws.config.tree import DROP, KeyPath, dotted, rewrite, walk

# What is trained where the user names no base: with masks, and with boxes alone.
MASK_BASE = 'mmws::mask_rcnn/mask_rcnn_r50_gnws.py'

BOX_BASE = 'mmws::faster_rcnn/faster_rcnn_r50_gnws.py'

# The same for small images, from scratch.
NARROW_MASK_BASE = 'mmws::_base_/narrow/mask_rcnn_r18_gnws.py'

NARROW_BOX_BASE = 'mmws::_base_/narrow/faster_rcnn_r18_gnws.py'


def choose_base(masks: bool, narrow: bool) -> str:
    """Return the config to inherit from where the user names none."""
    if narrow:
        return NARROW_MASK_BASE if masks else NARROW_BOX_BASE
    return MASK_BASE if masks else BOX_BASE


def load_base(base: str | Path) -> dict:
    """Return the base config as a dict; raise ValueError unless it trains on COCO instances."""
    cfg = read_config(base, name='`base`').to_dict()
    for key in ('model', 'train_dataloader', 'val_dataloader', 'val_evaluator', 'train_cfg'):
        if not cfg.get(key):
            raise ValueError(f'`base` {base} has no {key}: take a complete training config')
    for path, _ in walk(cfg['model'], ('model',)):
        if path[-1] == 'num_things_classes':
            raise ValueError(f'`base` {base} segments things and stuff: take an instance config')
    for path, value in walk(cfg['train_dataloader'], ('train_dataloader',)):
        if value and (path[-2:] == ('data_prefix', 'seg') or path[-1] == 'proposal_file'):
            raise ValueError(
                f'`base` {base} trains on {dotted(path[-2:])}, which a COCO instances '
                'file does not have: take another base'
            )

    # MMEngine notes where external values come from; without the note they read as in the base.
    def without_note(path: KeyPath, value: Any) -> Any:
        is_note = path[-1:] == ('_scope_',) and value == cfg.get('default_scope')
        return DROP if is_note else value

    return rewrite(cfg, without_note)


def reads_masks(cfg: dict) -> bool:
    """Return whether a config trains on masks."""
    settings = walk(cfg['train_dataloader'], ('train_dataloader',))
    return any(path[-1] == 'with_mask' and value for path, value in settings)
