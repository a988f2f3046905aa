"""The weights that a training starts from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from mmws.checkpoints.published import DETECTORS, Published, find_pretrained
from mmws.config.tree import kind, value_at

_COCO_CLASSES = 80
_TYPES = {'MaskRCNN': 'mask-rcnn', 'FasterRCNN': 'faster-rcnn'}
# Prediction layers, whose shape follows from the number of classes.
_PREDICTIONS = (
    ('bbox_head', 'roi_head.bbox_head.fc_cls'),
    ('bbox_head', 'roi_head.bbox_head.fc_reg'),
    ('mask_head', 'roi_head.mask_head.conv_logits'),
)


@dataclass
class Start:
    """What a training starts from.

    Attributes:
        load_from: File or URL for the config; ``None``: what the base has.
        comment: Lines for the config, without the sign of a comment.
        notes: The same for the terminal.
    """

    load_from: str | None = None
    comment: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_start(cfg: dict[str, Any], start: str | None, num_classes: int) -> Start:
    """Return the weights to start from.

    Args:
        cfg: The base config.
        start: A file or a URL; ``'none'`` for the base's own; ``None`` for the published detector
            with the base's architecture and layers, if there is one.
        num_classes: Of the data.

    Raises:
        FileNotFoundError: if the file does not exist.
    """
    if start == 'none':
        return Start(notes=['starts from the weights of the backbone that the base names, if any'])
    if start is not None:
        if '://' not in start and not os.path.isfile(start):
            raise FileNotFoundError(f'`start` {start}: there is no such file')
        return Start(start, [f'Starts from {start}.'], [f'starts from {start}'])
    published = find_detector(cfg['model'])
    if published is None or cfg.get('load_from'):
        return Start()
    heads = value_at(cfg, ('model', 'roi_head')) or {}
    dropped = [name for head, name in _PREDICTIONS if heads.get(head)]
    comment = [f'Starts from a detector trained on COCO (box AP {published.box_ap}).']
    if num_classes != _COCO_CLASSES:
        comment.append(f'Layers for its 80 classes are not loaded: {", ".join(dropped)}.')
    name = published.checkpoint.rpartition('/')[2]
    return Start(published.checkpoint, comment, [f'starts from {name}, trained on COCO'])


def find_detector(model: dict[str, Any]) -> Published | None:
    """Return the published detector with the architecture and the layers of a model.

    Args:
        model: ``model`` of a config. All of backbone, neck and heads must have Weight
            Standardization and Group Normalization.
    """
    backbone = model.get('backbone') or {}
    heads = [model.get('neck') or {}, value_at(model, ('roi_head', 'bbox_head')) or {}]
    for part in (backbone, *heads):
        if not isinstance(part, dict):
            return None
        if kind(part.get('conv_cfg')) != 'ConvWS' or kind(part.get('norm_cfg')) != 'GN':
            return None
    pretrained = find_pretrained(backbone)
    name = _TYPES.get(kind(model))
    if pretrained is None or name is None:
        return None
    same = [
        d
        for d in DETECTORS
        if (d.type, d.depth, d.groups, d.base_width, d.conv)
        == (pretrained.type, pretrained.depth, pretrained.groups, pretrained.base_width, 'WS')
        and f'/{name}_' in (d.config or '')
    ]
    return max(same, key=lambda d: d.mask_ap or d.box_ap or 0, default=None)
