"""Classification in MMPretrain: configs, trainings, and what the weights are good for."""

from __future__ import annotations

import re

import pytest
import torch
import torchvision
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from torch import nn

from mmws.checkpoints import Checkpoint, CheckpointMismatchError, convert_checkpoint
from mmws.config import load_config
from mmws.data.digits import write_single_digits
from mmws.engine import evaluate, prepare
from mmws.layers import ConvWN2d, ConvWS2d, GroupNorm
from mmws.surgery.fold_files import fold_files
from tests.checkpoints.test_foreign import as_the_authors_save, group_norm, randomized, standardized
from tests.helpers.other_tasks import folding_changes, require_package, train_a_little
from tests.helpers.paths import CONFIGS, NARROW_CONFIG

require_package('mmpretrain')

pytestmark = pytest.mark.slow
FOLDER = CONFIGS / 'imagenet'
BACKBONES = {
    'r18': ('ResNet', 18, None),
    'r50': ('ResNet', 50, None),
    'r101': ('ResNet', 101, None),
    'x50': ('ResNeXt', 50, 32),
    'x101': ('ResNeXt', 101, 32),
}
# Layers of a built model: convolutions and norms.
FORMS = {
    'bn': ({nn.Conv2d}, {nn.BatchNorm2d}),
    'gn': ({nn.Conv2d}, {GroupNorm}),
    'gnws': ({ConvWS2d}, {GroupNorm}),
    'bnws': ({ConvWS2d}, {nn.BatchNorm2d}),
    'wn': ({ConvWN2d}, set()),
}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_single_digits(tmp_path_factory.mktemp('data') / 'digits', size=32, limit=2)


def layers_of(model, *bases):
    return {type(m) for m in model.modules() if isinstance(m, bases)}


@pytest.mark.parametrize('path', sorted(FOLDER.glob('*.py')), ids=lambda path: path.stem)
def test_a_config_is_what_its_name_says(path):
    # Bug: a config copied from another one keeps the base or the layers of it.
    backbone, form, *_ = path.stem.split('_')
    cfg = load_config(path)
    model = cfg.model.get('model', cfg.model)
    found = model.backbone
    assert (found.type, found.depth, found.get('groups')) == BACKBONES[backbone]
    assert cfg.custom_imports.imports == ['mmws']
    # Bug: one image a step trains at the learning rate of 256 and diverges.
    assert cfg.auto_scale_lr.enable
    if 'digits' not in path.stem:
        assert cfg.auto_scale_lr.base_batch_size == 256
        assert cfg.train_dataloader.dataset.data_root == 'data/imagenet'
    # Narrow and shallow, for the layers alone.
    found.update(depth=18 if found.depth == 18 else 50, stem_channels=32, base_channels=32)
    model.head.in_channels = 256 if found.depth == 18 else 1024
    built = MODELS.build(cfg.model)
    convs, norms = FORMS[form]
    assert layers_of(built, nn.Conv2d) == convs
    assert layers_of(built, nn.BatchNorm2d, nn.GroupNorm) == norms


def train_digits(name, data, work_dir, **options):
    loaders = {
        f'{split}_dataloader__dataset__data_root': str(data) for split in ('train', 'val', 'test')
    }
    small = dict(
        train_dataloader__batch_size=10,
        train_dataloader__dataset__pipeline__1__crop_size=32,
        train_cfg__max_epochs=1,
    )
    return train_a_little(FOLDER / f'{name}.py', work_dir, **{**small, **loaders, **options})


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """The checkpoints of a training of two steps with GN+WS, and with BN."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        folder = tmp_path_factory.mktemp('trained')
        models = {
            form: train_digits(f'r18_{form}_digits', data, folder / form) for form in ('gnws', 'bn')
        }
    return {form: (model, folder / form / 'epoch_1.pth') for form, model in models.items()}


def test_a_training_evaluates_and_folds(trained, data, tmp_path):
    # Bug: mmws' tools, its record of weights or its folding take every model for a detector.
    model, checkpoint = trained['gnws']
    options = {'test_dataloader.dataset.data_root': str(data)}
    config = FOLDER / 'r18_gnws_digits.py'
    cfg = prepare(config, checkpoint=checkpoint, work_dir=tmp_path, cfg_options=options)
    assert 0 <= evaluate(cfg)['accuracy/top1'] <= 100
    record = Checkpoint.read(checkpoint).meta['mmws']
    assert 'backbone.layer1.0.conv1' in record['weights'][0]['layers']
    assert record['data_preprocessor']['bgr_to_rgb'] is True
    files = fold_files(config, checkpoint, tmp_path / 'folded')
    assert files.difference < 1e-4
    assert 'mmws' not in files.config.read_text()
    assert folding_changes(model, torch.randn(2, 3, 32, 32)) < 1e-9


def backbone_from(checkpoint):
    cfg = load_config(NARROW_CONFIG).model
    cfg.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.')
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = MODELS.build(cfg)
        detector.init_weights()
    return detector.backbone


def test_the_weights_start_a_detector(trained, log):
    # Bug: keys differ, or the guard warns of images that were normalized alike.
    _, checkpoint = trained['gnws']
    backbone = backbone_from(checkpoint)
    assert not log('checkpoint ')
    loaded = Checkpoint.read(checkpoint).weights
    for name, weight in backbone.state_dict().items():
        torch.testing.assert_close(weight, loaded[f'backbone.{name}'])


def test_weights_with_bn_do_not_start_a_detector_with_gn(trained):
    _, checkpoint = trained['bn']
    with pytest.raises(CheckpointMismatchError, match='trained with Batch Normalization'):
        backbone_from(checkpoint)


def test_weight_normalization_trains_without_a_norm(data, tmp_path):
    # Bug: the Runner hands the preprocessor to the wrapper of the model, which does not take it.
    config = tmp_path / 'wn.py'
    config.write_text(
        f"_base_ = '{FOLDER / 'r18_bn_digits.py'}'\n"
        + re.search(r'model = .*', (FOLDER / 'r50_wn.py').read_text(), re.DOTALL)[0]
    )
    model = train_digits('r18_bn_digits', data, tmp_path / 'bn')
    assert model.data_preprocessor.to_rgb
    loaders = {f'{split}_dataloader__dataset__data_root': str(data) for split in ('train', 'val')}
    model = train_a_little(
        config, tmp_path / 'wn', train_dataloader__batch_size=10, train_cfg__max_epochs=1,
        train_dataloader__dataset__pipeline__1__crop_size=32, **loaders,
    )  # fmt: skip
    assert model.data_preprocessor.to_rgb
    assert layers_of(model, nn.Conv2d) == {ConvWN2d}
    assert folding_changes(model, torch.randn(2, 3, 32, 32)) < 1e-9


@pytest.mark.parametrize('names', ['bn', 'gn'], ids=["the authors' file", "MMEngine's copy"])
def test_published_weights_evaluate_as_they_are(names, tmp_path, log):
    # Bug: a norm or the classifier stays at random, or padding and strides are those of others.
    theirs = randomized(standardized(torchvision.models.resnet50(norm_layer=group_norm)))
    state = as_the_authors_save(theirs)
    if names == 'gn':
        state['state_dict'] = {
            re.sub(r'\bbn(\d)', r'gn\1', key.removeprefix('module.')): value
            for key, value in state['state_dict'].items()
        }
    torch.save(state, tmp_path / 'theirs.pth.tar')
    out = tmp_path / 'ours.pth'
    convert_checkpoint(tmp_path / 'theirs.pth.tar', 'jhu', out, classifier=True)
    ours = MODELS.build(load_config(FOLDER / 'r50_gnws.py').model)
    assert set(ours.state_dict()) == set(Checkpoint.read(out).weights)
    load_checkpoint(ours, str(out), strict=True)
    assert not log('checkpoint ', 'The model and')
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        features = ours.double().eval().extract_feat(x)
        torch.testing.assert_close(ours.head.fc(features[-1]), theirs.double()(x))
