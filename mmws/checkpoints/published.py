"""Published weights with Group Normalization, with and without Weight Standardization.

The table has the backbones that MMEngine knows by name (``mmengine/hub/openmmlab.json``), and the
detectors of MMDetection's model zoo with their AP (``configs/gn+ws/metafile.yml`` and
``configs/gn/metafile.yml``). Their configs say how the images of each backbone were normalized.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from mmws.config.tree import kind

_ZOO = 'https://download.openmmlab.com/mmdetection/v2.0/'

# Mean, standard deviation and whether images are RGB, for backbones of torchvision and Detectron.
_TORCHVISION = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True)
_DETECTRON = ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), False)


@dataclass(frozen=True)
class Published:
    """Weights that somebody published, and what they were trained with."""

    checkpoint: str
    """What ``init_cfg`` or ``load_from`` takes: a name of MMEngine's hub, or a URL."""
    files: tuple[str, ...]
    """Names of the file, first the one that a download gets."""
    type: str
    """Backbone: ``ResNet`` or ``ResNeXt`` of MMDetection, ``style='pytorch'``."""
    depth: int
    groups: int
    """Groups of the 3 × 3 convolutions."""
    base_width: int
    """Channels in each group, in the first stage."""
    conv: str | None
    """``'WS'``, or None where convolutions are plain."""
    norm: str
    mean: tuple[float, float, float]
    """Subtracted from pixels of 0 to 255, in the order of channels that the model sees."""
    std: tuple[float, float, float]
    bgr_to_rgb: bool
    """Whether images, which MMDetection reads as BGR, become RGB."""
    config: str | None = None
    """MMDetection's config of a detector; None for a backbone."""
    box_ap: float | None = None
    """COCO val2017, as published."""
    mask_ap: float | None = None

    @property
    def data_preprocessor(self) -> dict[str, Any]:
        """Settings for ``model.data_preprocessor``: ``mean``, ``std`` and ``bgr_to_rgb``."""
        return dict(mean=list(self.mean), std=list(self.std), bgr_to_rgb=self.bgr_to_rgb)


def _backbone(
    name: str,
    arch: tuple[str, int, int, int],
    conv: str | None,
    files: tuple[str, ...],
    preprocessing: tuple = _TORCHVISION,
) -> Published:
    return Published(f'open-mmlab://{name}', files, *arch, conv, 'GN', *preprocessing)


def _detector(
    config: str, backbone: str, file: str, box_ap: float, mask_ap: float | None = None
) -> Published:
    folder = config.partition('/')[0].replace('+', '%2B')
    subfolder = re.sub(r'_\d{8}.*', '', file)  # the date and what follows it
    return replace(
        next(b for b in BACKBONES if b.checkpoint == f'open-mmlab://{backbone}'),
        checkpoint=f'{_ZOO}{folder}/{subfolder}/{file}.pth',
        files=(f'{file}.pth',),
        config=f'mmdet::{config}',
        box_ap=box_ap,
        mask_ap=mask_ap,
    )


_R50 = ('ResNet', 50, 1, 64)
_R101 = ('ResNet', 101, 1, 64)
_X50 = ('ResNeXt', 50, 32, 4)
_X101 = ('ResNeXt', 101, 32, 4)

# If several backbones fit, find_pretrained takes the first.
# fmt: off
BACKBONES: tuple[Published, ...] = (
    # These are by the authors of Weight Standardization. The first file name is that of MMEngine's
    # copy, the second is theirs.
    _backbone('jhu/resnet50_gn_ws', _R50, 'WS',
              ('resnet50_gn_ws-15beedd8.pth', 'R-50-GN-WS.pth.tar')),
    _backbone('jhu/resnet101_gn_ws', _R101, 'WS',
              ('resnet101_gn_ws-3e3c308c.pth', 'R-101-GN-WS.pth.tar')),
    _backbone('jhu/resnext50_32x4d_gn_ws', _X50, 'WS',
              ('resnext50_32x4d_gn_ws-0d87ac85.pth', 'X-50-GN-WS.pth.tar')),
    _backbone('jhu/resnext101_32x4d_gn_ws', _X101, 'WS',
              ('resnext101_32x4d_gn_ws-34ac1a9e.pth', 'X-101-GN-WS.pth.tar')),
    _backbone('jhu/resnext50_32x4d_gn', _X50, None, ('resnext50_32x4d_gn-c7e8b754.pth',)),
    _backbone('jhu/resnext101_32x4d_gn', _X101, None, ('resnext101_32x4d_gn-ac3bb84e.pth',)),
    # These are converted from Detectron, which trains on BGR images.
    _backbone('detectron/resnet50_gn', _R50, None, ('resnet50_gn-9186a21c.pth',), _DETECTRON),
    _backbone('detectron/resnet101_gn', _R101, None, ('resnet101_gn-cac0ab98.pth',), _DETECTRON),
    _backbone('contrib/resnet50_gn', _R50, None, ('resnet50_gn_thangvubk-ad1730dd.pth',)),
)

# The second argument is the backbone that the training started from.
DETECTORS: tuple[Published, ...] = (
    _detector('gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py', 'jhu/resnet50_gn_ws',
              'faster_rcnn_r50_fpn_gn_ws-all_1x_coco_20200130-613d9fe2', 39.7),
    _detector('gn+ws/faster-rcnn_r101_fpn_gn-ws-all_1x_coco.py', 'jhu/resnet101_gn_ws',
              'faster_rcnn_r101_fpn_gn_ws-all_1x_coco_20200205-a93b0d75', 41.7),
    _detector('gn+ws/faster-rcnn_x50-32x4d_fpn_gn-ws-all_1x_coco.py', 'jhu/resnext50_32x4d_gn_ws',
              'faster_rcnn_x50_32x4d_fpn_gn_ws-all_1x_coco_20200203-839c5d9d', 40.7),
    _detector('gn+ws/faster-rcnn_x101-32x4d_fpn_gn-ws-all_1x_coco.py',
              'jhu/resnext101_32x4d_gn_ws',
              'faster_rcnn_x101_32x4d_fpn_gn_ws-all_1x_coco_20200212-27da1bc2', 42.1),
    _detector('gn+ws/mask-rcnn_r50_fpn_gn-ws-all_2x_coco.py', 'jhu/resnet50_gn_ws',
              'mask_rcnn_r50_fpn_gn_ws-all_2x_coco_20200226-16acb762', 40.6, 36.6),
    _detector('gn+ws/mask-rcnn_r101_fpn_gn-ws-all_2x_coco.py', 'jhu/resnet101_gn_ws',
              'mask_rcnn_r101_fpn_gn_ws-all_2x_coco_20200212-ea357cd9', 42.0, 37.7),
    _detector('gn+ws/mask-rcnn_x50-32x4d_fpn_gn-ws-all_2x_coco.py', 'jhu/resnext50_32x4d_gn_ws',
              'mask_rcnn_x50_32x4d_fpn_gn_ws-all_2x_coco_20200216-649fdb6f', 41.1, 37.0),
    _detector('gn+ws/mask-rcnn_x101-32x4d_fpn_gn-ws-all_2x_coco.py', 'jhu/resnext101_32x4d_gn_ws',
              'mask_rcnn_x101_32x4d_fpn_gn_ws-all_2x_coco_20200319-33fb95b5', 42.1, 37.9),
    _detector('gn+ws/mask-rcnn_r50_fpn_gn-ws-all_20-23-24e_coco.py', 'jhu/resnet50_gn_ws',
              'mask_rcnn_r50_fpn_gn_ws-all_20_23_24e_coco_20200213-487d1283', 41.1, 37.1),
    _detector('gn+ws/mask-rcnn_r101_fpn_gn-ws-all_20-23-24e_coco.py', 'jhu/resnet101_gn_ws',
              'mask_rcnn_r101_fpn_gn_ws-all_20_23_24e_coco_20200213-57b5a50f', 43.1, 38.6),
    _detector('gn+ws/mask-rcnn_x50-32x4d_fpn_gn-ws-all_20-23-24e_coco.py',
              'jhu/resnext50_32x4d_gn_ws',
              'mask_rcnn_x50_32x4d_fpn_gn_ws-all_20_23_24e_coco_20200226-969bcb2c', 42.1, 38.0),
    _detector('gn+ws/mask-rcnn_x101-32x4d_fpn_gn-ws-all_20-23-24e_coco.py',
              'jhu/resnext101_32x4d_gn_ws',
              'mask_rcnn_x101_32x4d_fpn_gn_ws-all_20_23_24e_coco_20200316-e6cd35ef', 42.7, 38.5),
    _detector('gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py', 'detectron/resnet50_gn',
              'mask_rcnn_r50_fpn_gn-all_2x_coco_20200206-8eee02a6', 40.2, 36.4),
    _detector('gn/mask-rcnn_r50_fpn_gn-all_3x_coco.py', 'detectron/resnet50_gn',
              'mask_rcnn_r50_fpn_gn-all_3x_coco_20200214-8b23b1e5', 40.5, 36.7),
    _detector('gn/mask-rcnn_r101_fpn_gn-all_2x_coco.py', 'detectron/resnet101_gn',
              'mask_rcnn_r101_fpn_gn-all_2x_coco_20200205-d96b1b50', 41.9, 37.6),
    _detector('gn/mask-rcnn_r101_fpn_gn-all_3x_coco.py', 'detectron/resnet101_gn',
              'mask_rcnn_r101_fpn_gn-all_3x_coco_20200513_181609-0df864f4', 42.1, 38.0),
    _detector('gn/mask-rcnn_r50-contrib_fpn_gn-all_2x_coco.py', 'contrib/resnet50_gn',
              'mask_rcnn_r50_fpn_gn-all_contrib_2x_coco_20200207-20d3e849', 40.0, 36.1),
    _detector('gn/mask-rcnn_r50-contrib_fpn_gn-all_3x_coco.py', 'contrib/resnet50_gn',
              'mask_rcnn_r50_fpn_gn-all_contrib_3x_coco_20200225-542aefbc', 40.1, 36.2),
)
# fmt: on

# The weight function that pretrained weights of a layer must have. AWS and WN are initialized from
# plain weights such that they compute the same as the plain layer.
_SERVES = {'WS': 'WS', None: None, 'AWS': None, 'WN': None}


def find_pretrained(
    backbone_cfg: Mapping[str, Any], conv: str | None = 'WS', norm: str = 'GN'
) -> Published | None:
    """Return published ImageNet weights for a backbone that gets these layers.

    Args:
        backbone_cfg: ``model.backbone`` of an MMDetection config, before or after its
            ``conv_cfg`` and ``norm_cfg`` were set; these are not looked at.
        conv: ``'WS'``; ``'AWS'`` or ``'WN'``, which take over plain weights exactly; None for
            plain convolutions.
        norm: ``'GN'``.

    Returns:
        The first of :data:`BACKBONES` that fits, None if there is none.
    """
    architecture = _architecture(backbone_cfg)
    if architecture is None or conv not in _SERVES:
        return None
    wanted = (*architecture, _SERVES[conv], norm)
    for published in BACKBONES:
        p = published
        if (p.type, p.depth, p.groups, p.base_width, p.conv, p.norm) == wanted:
            return published
    return None


def lookup(name: str) -> Published | None:
    """Return what is known of a checkpoint by its name, URL or file name; None if nothing."""
    name = name.replace('openmmlab://', 'open-mmlab://')
    file = PurePosixPath(name.replace('\\', '/')).name
    for published in (*BACKBONES, *DETECTORS):
        if name == published.checkpoint or file in published.files:
            return published
    return None


def _architecture(cfg: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return type, depth, groups and width, None if it is no ResNet as published."""
    cfg = dict(cfg)
    plain = dict(
        style='pytorch', base_channels=64, stem_channels=64, in_channels=3,
        deep_stem=False, avg_down=False,
    )  # fmt: skip
    if any(cfg.get(key) not in (None, value) for key, value in plain.items()):
        return None
    if kind(cfg) == 'ResNeXt':
        return 'ResNeXt', cfg.get('depth'), cfg.get('groups', 1), cfg.get('base_width', 4)
    if kind(cfg) == 'ResNet':
        return 'ResNet', cfg.get('depth'), 1, 64
    return None
