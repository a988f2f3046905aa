"""Weights from elsewhere give in MMDetection's backbones the features of their own networks."""

from collections import OrderedDict
from functools import partial

import pytest
import torch
import torchvision
from mmcv.cnn.bricks.conv_ws import ConvWS2d as MMCVConvWS2d
from mmdet.registry import MODELS
from mmengine.runner import load_checkpoint
from torch import nn

import mmws
from mmws.checkpoints import convert_checkpoint, convert_weights
from mmws.compat import read_checkpoint
from tests.helpers.processes import call_tool

pytestmark = pytest.mark.usefixtures('mmdet_registered')
WS, GN = dict(type='mmws.ConvWS'), dict(type='mmws.GN')
group_norm = partial(nn.GroupNorm, 32)


def randomized(model):
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand_like(tensor) if 'running_var' in name else torch.randn_like(tensor)
            tensor.copy_(0.1 * noise + (1 if tensor.dim() == 1 and 'bias' not in name else 0))
    return model.eval()


def backbone(**cfg):
    cfg = dict(dict(type='mmdet.ResNet', depth=50, norm_eval=True), **cfg)
    model = MODELS.build(cfg)
    model.train()
    return model


def as_the_authors_save(model):
    """State of a training on several GPUs, with the optimizer's and the scores."""
    weights = OrderedDict((f'module.{k}', v) for k, v in model.state_dict().items())
    return dict(epoch=90, arch='l_resnet50', state_dict=weights, acc=1, best_acc=1, optimizer={})


def stages(model, x):
    """Features of the four stages of torchvision's and timm's ResNets."""
    act = model.relu if hasattr(model, 'relu') else model.act1
    x = model.maxpool(act(model.bn1(model.conv1(x))))
    outs = []
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = layer(x)
        outs.append(x)
    return outs


def standardized(model):
    """WS in MMCV's words, after the fact."""
    for module in model.modules():
        for name, conv in list(module.named_children()):
            if type(conv) is nn.Conv2d:
                ws = MMCVConvWS2d(
                    conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride,
                    conv.padding, groups=conv.groups, bias=False,
                )  # fmt: skip
                setattr(module, name, ws)
    return model


def timm(name):
    return pytest.importorskip('timm').create_model(name)


CASES = {
    'jhu-R50': (
        'jhu',
        lambda: standardized(torchvision.models.resnet50(norm_layer=group_norm)),
        dict(conv_cfg=WS, norm_cfg=GN),
    ),
    'jhu-X50': (
        'jhu',
        lambda: standardized(torchvision.models.resnext50_32x4d(norm_layer=group_norm)),
        dict(type='mmdet.ResNeXt', groups=32, base_width=4, conv_cfg=WS, norm_cfg=GN),
    ),
    'torchvision-R18': ('torchvision', torchvision.models.resnet18, dict(depth=18)),
    'timm-R50-GN': ('timm', partial(timm, 'resnet50_gn'), dict(norm_cfg=GN)),
    'timm-R50-D': ('timm', partial(timm, 'resnet50d'), dict(type='mmdet.ResNetV1d')),
}


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_features_are_those_of_the_network_they_come_from(case, tmp_path, log):
    # Bug: norms stay at random because of their names, or the record calls the weights unfit.
    source, make, cfg = CASES[case]
    theirs = randomized(make())
    torch.save(as_the_authors_save(theirs), tmp_path / 'theirs.pth.tar')
    convert_checkpoint(tmp_path / 'theirs.pth.tar', source, tmp_path / 'ours.pth')
    ours = backbone(**cfg)
    load_checkpoint(ours, str(tmp_path / 'ours.pth'))
    assert not log('checkpoint ', 'The model and')
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(list(ours.double()(x)), stages(theirs.double(), x))


def test_bit_weights_of_timm_become_those_of_resnet_v2(tmp_path, log):
    weights = timm('resnetv2_50x1_bit').state_dict()
    torch.save(weights, tmp_path / 'bit.pth')
    converted = convert_checkpoint(tmp_path / 'bit.pth', 'timm', tmp_path / 'ours.pth')
    assert converted.type == 'mmws.ResNetV2'
    assert converted.record['data_preprocessor']['mean'] == [127.5, 127.5, 127.5]
    load_checkpoint(mmws.ResNetV2(), str(tmp_path / 'ours.pth'))
    assert not log('checkpoint ', 'The model and')


@pytest.mark.parametrize(
    ('weights', 'source', 'message'),
    [
        ({'conv1.weight': 1, 'blocks.0.attn.qkv.weight': 1}, 'timm', 'as blocks.0.attn.qkv.weight'),
        ({'layer1.0.se.fc1.weight': 1}, 'timm', 'as layer1.0.se.fc1.weight'),
        ({'conv1.weight': 1, 'bn1.running_mean': 1}, 'jhu', 'running statistics of BN'),
        ({'fc.weight': 1}, 'torchvision', 'no weights of a backbone'),
        ({'stem.conv.weight': 1}, 'torchvision', 'as stem.conv.weight'),
        ({}, 'elsewhere', 'one of jhu, torchvision, timm'),
    ],
)
def test_weights_of_another_network_are_refused(weights, source, message):
    # Bug: an SE-ResNet or a transformer is written as a ResNet with half of its weights.
    with pytest.raises(ValueError, match=message):
        convert_weights({k: torch.ones(v) for k, v in weights.items()}, source)


def test_a_classifier_is_kept_under_the_names_of_mmpretrain():
    # Bug: the record names layers that the weights do not have, and the guard finds no function.
    theirs = torchvision.models.resnet50(norm_layer=group_norm).state_dict()
    converted = convert_weights(theirs, 'jhu', classifier=True)
    assert converted.type == 'ImageClassifier'
    assert len(converted.state_dict) == len(theirs)
    torch.testing.assert_close(converted.state_dict['head.fc.weight'], theirs['fc.weight'])
    torch.testing.assert_close(converted.state_dict['backbone.gn1.bias'], theirs['bn1.bias'])
    described = [name for entry in converted.record['weights'] for name in entry['layers']]
    norms = [name for entry in converted.record['norms'] for name in entry['layers']]
    named = {key.rpartition('.')[0] for key in converted.state_dict}
    assert {*described, *norms} == named - {'head.fc'}
    del theirs['fc.bias']
    with pytest.raises(ValueError, match=r'needs fc\.weight and fc\.bias, and it holds fc\.weight'):
        convert_weights(theirs, 'jhu', classifier=True)


def test_the_tool_writes_once_and_says_what(tmp_path, monkeypatch, capsys):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / 'r18.pth')
    arguments = (tmp_path / 'r18.pth', '--from', 'torchvision', '--out', tmp_path / 'out' / 'r.pth')
    call_tool('convert_checkpoint.py', *arguments)
    out = capsys.readouterr().out
    assert 'weights of a ResNet' in out
    assert 'mean' in out
    assert read_checkpoint(tmp_path / 'out' / 'r.pth')['meta']['mmws']['weights'] == []
    with pytest.raises(SystemExit, match=r'error: .*r\.pth exists'):
        call_tool('convert_checkpoint.py', *arguments)
    with pytest.raises(SystemExit, match=r'error: checkpoint .*r18\.pth: it has running'):
        call_tool(
            'convert_checkpoint.py',
            tmp_path / 'r18.pth',
            '--from',
            'jhu',
            '--out',
            tmp_path / 'x.pth',
        )
    assert not (tmp_path / 'x.pth').exists()
