"""Semantic segmentation in MMSegmentation: configs, trainings, evaluation, folding."""

from __future__ import annotations

import re

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmws.checkpoints import Checkpoint
from mmws.config import load_config
from mmws.engine import evaluate, prepare
from mmws.layers import ConvWS2d, GroupNorm
from mmws.surgery.fold_files import fold_files
from tests.helpers.digits_config import small_digits
from tests.helpers.other_tasks import folding_changes, require_package, train_a_little
from tests.helpers.paths import CONFIGS

require_package('mmseg')

pytestmark = pytest.mark.slow
FOLDER = CONFIGS / 'voc_segmentation'
HEADS = {'deeplabv3': 'ASPPHead', 'deeplabv3plus': 'DepthwiseSeparableASPPHead'}
DEPTHS = {'r18': 18, 'r50': 50, 'r101': 101}
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm)
# Kinds of convolutions and norms; the name of the weights that the backbone starts from.
FORMS = {
    'bn': (nn.Conv2d, nn.SyncBatchNorm, r'torchvision://resnet\d+'),
    'gn': (nn.Conv2d, GroupNorm, r'open-mmlab://detectron/resnet\d+_gn'),
    'gnws': (ConvWS2d, GroupNorm, r'open-mmlab://jhu/resnet\d+_gn_ws'),
}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = small_digits(
        tmp_path_factory.mktemp('data') / 'digits', num_train=2, num_val=1, voc=True
    )
    return root / 'VOCdevkit' / 'VOC2012'


@pytest.mark.parametrize('path', sorted(FOLDER.glob('*.py')), ids=lambda path: path.stem)
def test_a_config_is_what_its_name_says(path):
    # Bug: a config copied from another one keeps a base, weights or the stride of it.
    head, backbone, form, *_ = path.stem.split('_')
    cfg = load_config(path)
    model = cfg.model
    assert (model.backbone.type, model.backbone.depth) == ('ResNet', DEPTHS[backbone])
    assert model.decode_head.type == HEADS[head]
    assert cfg.auto_scale_lr.enable
    conv, norm, weights = FORMS[form]
    if 'digits' in path.stem:
        norm = nn.BatchNorm2d if form == 'bn' else norm
    else:
        start = model.backbone.init_cfg.checkpoint
        assert re.fullmatch(weights, start)
        assert f'/resnet{model.backbone.depth}' in start
        # Detectron's weights take BGR images without a division by the deviation.
        assert model.data_preprocessor.bgr_to_rgb is (form != 'gn')
        assert model.data_preprocessor.std[0] == (1.0 if form == 'gn' else 58.395)
        assert cfg.train_cfg.max_iters == 40000
        assert cfg.train_dataloader.batch_size == 4
        assert model.decode_head.num_classes == model.auxiliary_head.num_classes == 21
    narrow(model, 4 if backbone != 'r18' else 1)
    built = MODELS.build(model).eval()
    separable = [
        m for m in built.modules() if type(m).__name__.startswith('DepthwiseSeparableConv')
    ]
    plain = {conv for block in separable for conv in block.modules()}
    prediction = {built.decode_head.conv_seg, built.auxiliary_head.conv_seg}
    convs = [m for m in built.modules() if isinstance(m, nn.Conv2d) and m not in plain]
    assert {type(m) for m in convs if m not in prediction} == {conv}
    norms = [m for m in built.modules() if isinstance(m, NORMS)]
    assert norms
    assert all(isinstance(m, norm) for m in norms)
    with torch.no_grad():
        last = built.backbone(torch.randn(1, 3, 64, 64))[-1]
    stride = 8 if 'digits' in path.stem else 16
    assert last.shape[2:] == (64 // stride, 64 // stride)


def narrow(model, expansion):
    model.backbone.update(stem_channels=32, base_channels=32, init_cfg=None)
    model.backbone.depth = min(model.backbone.depth, 50)
    model.decode_head.update(in_channels=256 * expansion, channels=32)
    model.auxiliary_head.update(in_channels=128 * expansion, channels=32)
    if 'c1_in_channels' in model.decode_head:
        model.decode_head.update(c1_in_channels=32 * expansion, c1_channels=32)


def test_a_training_evaluates_and_folds(data, tmp_path):
    # Bug: mmws' tools, its record of weights or its folding take every model for a detector.
    options = {
        f'{split}_dataloader__dataset__data_root': str(data) for split in ('train', 'val', 'test')
    }
    config = FOLDER / 'deeplabv3_r18_gnws_digits.py'
    model = train_a_little(
        config, tmp_path, train_cfg__max_iters=2, train_cfg__val_interval=2, **options
    )
    checkpoint = tmp_path / 'iter_2.pth'
    record = Checkpoint.read(checkpoint).meta['mmws']
    assert 'backbone.layer1.0.conv1' in record['weights'][0]['layers']
    cfg_options = {name.replace('__', '.'): value for name, value in options.items()}
    cfg = prepare(config, checkpoint=checkpoint, work_dir=tmp_path, cfg_options=cfg_options)
    assert 0 <= evaluate(cfg)['mIoU'] <= 100
    files = fold_files(config, checkpoint, tmp_path / 'folded')
    assert files.difference < 1e-4
    assert 'mmws' not in files.config.read_text()
    assert folding_changes(model, torch.randn(1, 3, 64, 64)) < 1e-9
