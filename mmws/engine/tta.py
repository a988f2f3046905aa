"""Test-time augmentation by mirroring, with the settings of MMDetection's test script."""

from __future__ import annotations

import copy

from mmengine.config import Config

from mmws.config.tree import datasets

# MMDetection's settings for a config without `tta_model`.
_MODEL = dict(
    type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
)
_NEEDED_META = ('ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')


def enable_tta(cfg: Config) -> None:
    """Change a config so that each test image is also seen mirrored, and boxes are merged.

    If the config has a ``tta_model`` or a ``tta_pipeline``, these are used.

    Args:
        cfg: The config, whose ``model`` and pipelines of ``test_dataloader`` are changed in place.

    Raises:
        ValueError: if the model predicts masks, which MMDetection cannot merge.
    """
    roi_head = cfg.model.get('roi_head') or {}
    if any(part.get('mask_head') for part in (cfg.model, roi_head)):
        raise ValueError(
            '`tta`: MMDetection merges boxes only, and the model of the config predicts masks'
        )
    for _, dataset in datasets(cfg.test_dataloader.dataset):
        dataset['pipeline'] = cfg.get('tta_pipeline') or _mirrored(dataset['pipeline'])
    cfg.model = dict(copy.deepcopy(cfg.get('tta_model') or _MODEL), module=cfg.model)


def _mirrored(pipeline: list[dict]) -> list[dict]:
    *before, pack = pipeline
    # Keys of the pipeline replace MMDetection's default, which has all that merging needs.
    keys = pack.get('meta_keys') or ('img_id', 'img_path')
    pack = dict(pack, meta_keys=tuple(dict.fromkeys([*keys, *_NEEDED_META])))
    flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
    return [*before, dict(type='TestTimeAug', transforms=[flips, [pack]])]
