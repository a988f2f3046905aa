"""The zoo's config files, and how to make a model of theirs small enough for a test."""

import copy
from pathlib import Path
from unittest import mock

import mmdet
from mmengine.config import Config, ConfigDict

from tests.helpers.paths import CONFIGS, NO_DETECTORS

MMDET_CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
# `folder/name`, as after `mmws::`.
ZOO = sorted(
    f'{path.parent.name}/{path.stem}'
    for path in CONFIGS.glob('*/*.py')
    if path.parent.name not in NO_DETECTORS
)

# A base is read once for all its heirs, and with it MMDetection's metafiles, which MMEngine reads
# for every `mmdet::`.
_file2dict = Config._file2dict
_dicts: dict = {}


def _cached_file2dict(filename, *args, **kwargs):
    key = str(Path(filename).resolve())
    if key not in _dicts:
        _dicts[key] = _file2dict(filename, *args, **kwargs)
    return copy.deepcopy(_dicts[key])


def read(path: Path) -> Config:
    """Read a config file, as `Config.fromfile`, but faster when it comes to many."""
    with mock.patch.object(Config, '_file2dict', staticmethod(_cached_file2dict)):
        return Config.fromfile(path)


def read_zoo(name: str) -> Config:
    """Read `mmws::name.py`."""
    return read(CONFIGS / f'{name}.py')


def narrowed(cfg: Config, channels: int = 32) -> ConfigDict:
    """Return the model of ``cfg`` with few channels and RoIs, without weights to download.

    The backbone keeps its kind, at 50 layers.
    """
    model = copy.deepcopy(cfg.model)
    model.backbone.update(base_channels=channels, depth=50, init_cfg=None)
    model.neck.update(
        in_channels=[4 * channels * 2**stage for stage in range(4)], out_channels=channels
    )
    for part in ('rpn_head', 'roi_head', 'bbox_head'):
        _set_channels(model.get(part), channels)
    for proposals in (model.train_cfg.get('rpn_proposal'), model.test_cfg.get('rpn')):
        if proposals:
            proposals.update(nms_pre=100, max_per_img=20)
    # Untrained, it is sure of nothing.
    model.test_cfg.get('rcnn', model.test_cfg).update(score_thr=0.0, max_per_img=10)
    stages = model.train_cfg.get('rcnn', [])
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 16
    return model


def _set_channels(node: object, channels: int) -> None:
    if isinstance(node, list):
        for item in node:
            _set_channels(item, channels)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key.endswith('_channels'):
                node[key] = channels
            else:
                _set_channels(value, channels)
