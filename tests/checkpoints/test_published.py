"""The table of published weights, against the files that MMEngine and MMDetection ship."""

from pathlib import Path

import mmdet
import mmengine
import pytest

import mmws  # noqa: F401
from mmws.checkpoints import BACKBONES, DETECTORS, find_pretrained, lookup
from mmws.config import read_config

HUB = mmengine.load(Path(mmengine.__file__).parent / 'hub' / 'openmmlab.json')
ZOO = [
    model
    for folder in ('gn+ws', 'gn')
    for model in mmengine.load(
        Path(mmdet.__file__).parent / '.mim' / 'configs' / folder / 'metafile.yml'
    )['Models']
]


def test_backbones_are_those_of_the_hub():
    # Bug: a name that MMEngine does not know, or one of its own left out.
    files = {
        f'open-mmlab://{name}': url.rpartition('/')[2]
        for name, url in HUB.items()
        if name.endswith(('_gn', '_gn_ws'))
    }
    assert {p.checkpoint: p.files[0] for p in BACKBONES} == files


def test_detectors_are_those_of_the_zoo_with_their_published_ap():
    published = {
        model['Weights']: (
            model['Config'].replace('%2B', '+').replace('configs/', 'mmdet::'),
            *[metric for result in model['Results'] for metric in result['Metrics'].values()],
        )
        for model in ZOO
    }
    table = {
        p.checkpoint: tuple(v for v in (p.config, p.box_ap, p.mask_ap) if v is not None)
        for p in DETECTORS
    }
    assert table == published


@pytest.mark.parametrize('detector', DETECTORS, ids=lambda p: Path(p.config).stem)
def test_configs_agree_on_architecture_layers_and_preprocessing(detector):
    # Bug: BGR weights told to be RGB; a detector listed under another backbone.
    model = read_config(detector.config).model
    backbone = lookup(model.backbone.init_cfg.checkpoint)
    same = ('type', 'depth', 'groups', 'base_width', 'conv', 'norm', 'data_preprocessor')
    assert all(getattr(detector, name) == getattr(backbone, name) for name in same)
    preprocessor = detector.data_preprocessor
    assert {key: model.data_preprocessor[key] for key in preprocessor} == preprocessor
    assert model.backbone.norm_cfg.type == detector.norm
    conv_cfg = model.backbone.get('conv_cfg') or dict(type=None)
    assert conv_cfg['type'] == ('ConvWS' if detector.conv == 'WS' else None)
    found = find_pretrained(model.backbone, backbone.conv)
    same = ('type', 'depth', 'groups', 'base_width', 'conv', 'norm')
    assert all(getattr(found, name) == getattr(backbone, name) for name in same)


@pytest.mark.parametrize(
    ('cfg', 'conv', 'name'),
    [
        (dict(type='ResNet', depth=50), 'WS', 'jhu/resnet50_gn_ws'),
        (dict(type='mmdet.ResNet', depth=101, style='pytorch'), 'WS', 'jhu/resnet101_gn_ws'),
        (dict(type='ResNeXt', depth=50, groups=32), 'WS', 'jhu/resnext50_32x4d_gn_ws'),
        (dict(type='ResNeXt', depth=101, groups=32), None, 'jhu/resnext101_32x4d_gn'),
        # Affine WS and WN take plain weights over exactly, and no others.
        (dict(type='ResNet', depth=50), 'AWS', 'detectron/resnet50_gn'),
        (dict(type='ResNet', depth=101), 'WN', 'detectron/resnet101_gn'),
        (dict(type='ResNet', depth=18), 'WS', None),
        (dict(type='ResNet', depth=50, style='caffe'), 'WS', None),
        (dict(type='ResNet', depth=50, base_channels=32), 'WS', None),
        (dict(type='ResNet', depth=50, deep_stem=True), 'WS', None),
        (dict(type='ResNetV1d', depth=50), 'WS', None),
        (dict(type='ResNeXt', depth=101, groups=64, base_width=4), 'WS', None),
        (dict(type='SwinTransformer', depths=[2, 2, 6, 2]), 'WS', None),
        (dict(type='ResNet', depth=50), 'ScaledWS', None),
    ],
)  # fmt: skip
def test_pretrained_weights_of_a_backbone(cfg, conv, name):
    # Bug: weights of another architecture, or trained with other layers, put into a config.
    found = find_pretrained(cfg, conv)
    assert (found and found.checkpoint) == (name and f'open-mmlab://{name}')


def test_other_norms_have_none():
    assert find_pretrained(dict(type='ResNet', depth=50), 'WS', 'BN') is None


@pytest.mark.parametrize(
    ('name', 'checkpoint'),
    [
        ('openmmlab://jhu/resnet50_gn_ws', 'open-mmlab://jhu/resnet50_gn_ws'),
        ('weights/resnet50_gn_ws-15beedd8.pth', 'open-mmlab://jhu/resnet50_gn_ws'),
        ('C:\\weights\\R-50-GN-WS.pth.tar', 'open-mmlab://jhu/resnet50_gn_ws'),
        (DETECTORS[0].files[0], DETECTORS[0].checkpoint),
        ('torchvision://resnet50', None),
        ('work_dirs/epoch_12.pth', None),
    ],
)
def test_a_checkpoint_is_known_by_name_url_or_file(name, checkpoint):
    found = lookup(name)
    assert (found and found.checkpoint) == checkpoint
