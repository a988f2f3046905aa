"""The BiT backbone beside timm's, whose names, parameters and features it has."""

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from torch import nn

import mmws
from mmws import CheckpointMismatchError
from mmws.config import read_config
from tests.helpers.paths import NARROW_CONFIG

timm = pytest.importorskip('timm')

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('mmdet_registered')]


def randomized(model):
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.data = torch.randn_like(parameter) * 0.3 + (0.5 if 'norm' in name else 0.1)
    return model


@pytest.mark.parametrize(
    ('name', 'depth', 'dtype'),
    [('resnetv2_50x1_bit', 50, torch.float64), ('resnetv2_101x1_bit', 101, torch.float32)],
)
def test_features_of_every_stage_are_those_of_timm(name, depth, dtype):
    # Bug: padding of the pooling, eps of WS, stride or the shortcut's input is another.
    theirs = randomized(timm.create_model(name, num_classes=0)).to(dtype)
    ours = mmws.ResNetV2(depth).to(dtype)
    ours.load_state_dict(theirs.state_dict())  # strict: key by key
    x = torch.randn(1, 3, 75, 66, dtype=dtype)
    with torch.no_grad():
        expected = [theirs.stem(x)]
        for stage in theirs.stages:
            expected.append(stage(expected[-1]))
        expected[4] = theirs.norm(expected[4])
        torch.testing.assert_close(theirs.forward_features(x), expected[4])
        features = ours(x)
    tolerance = 1e-9 if dtype is torch.float64 else 1e-4
    for got, want in zip(features, expected[1:], strict=True):
        scale = want.abs().max()
        torch.testing.assert_close(got / scale, want / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ('name', 'depth', 'width'), [('resnetv2_50x3_bit', 50, 3), ('resnetv2_152x4_bit', 152, 4)]
)
def test_wider_and_deeper_ones_have_the_parameters_of_timms(name, depth, width):
    with torch.device('meta'):
        theirs, ours = timm.create_model(name, num_classes=0), mmws.ResNetV2(depth, width)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (theirs, ours)]
    assert shapes[0] == shapes[1]


def test_gradients_with_activation_checkpointing_are_the_same():
    models = [randomized(mmws.ResNetV2(with_cp=cp, out_indices=(1,))).double() for cp in (0, 1)]
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    for model in models:
        model(x.clone().requires_grad_())[0].square().mean().backward()
    grads = [[p.grad for p in model.parameters()] for model in models]
    torch.testing.assert_close(*grads)


def test_frozen_stages_stay_frozen_and_stages_not_put_out_are_not_built():
    # Bug: training mode thaws them; unused parameters stop DistributedDataParallel.
    model = mmws.ResNetV2(frozen_stages=1, out_indices=(0, 2)).train()
    frozen = {
        n.split('.')[0] + n.split('.')[1] * ('stages' in n)
        for n, p in model.named_parameters()
        if not p.requires_grad
    }
    assert frozen == {'stem', 'stages0'}
    assert [stage.training for stage in model.stages] == [False, True, True]
    assert model.norm is None
    features = model(torch.randn(1, 3, 64, 64))
    assert [tuple(f.shape[1:]) for f in features] == [(256, 16, 16), (1024, 4, 4)]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(depth=18), 'depth 50, 101, 152, not 18'),
        (dict(out_indices=(2, 1)), 'out_indices are'),
        (dict(out_indices=()), 'out_indices are'),
        (dict(out_indices=(0, 4)), 'out_indices are'),
        (dict(out_indices=(0, 1), frozen_stages=3), 'frozen_stages is -1 to 2, not 3'),
    ],
)
def test_arguments_that_cannot_be_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        mmws.ResNetV2(**arguments)


def detector(**backbone):
    cfg = read_config(NARROW_CONFIG).model
    cfg.backbone = dict(type='mmws.ResNetV2', **backbone)
    cfg.neck.in_channels = [256, 512, 1024, 2048]
    return MODELS.build(cfg)


def test_trains_as_the_backbone_of_mask_rcnn(tmp_path, monkeypatch):
    # Bug: timm's file does not load through init_cfg, or a feature has other channels or strides.
    weights = timm.create_model('resnetv2_50x1_bit').state_dict()  # with its classifier
    torch.save(weights, tmp_path / 'bit.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'bit.pth'))
    model = detector(init_cfg=init_cfg)
    model.backbone.init_weights()
    torch.testing.assert_close(model.backbone.norm.weight, weights['norm.weight'])
    batch = demo_mm_inputs(1, [[3, 64, 64]], num_classes=10, with_mask=True)
    data = model.data_preprocessor(batch, training=True)
    loss, _ = model.parse_losses(model.loss(data['inputs'], data['data_samples']))
    loss.backward()
    assert model.backbone.stem.conv.weight.grad.abs().sum() > 0
    # A ResNet-101 in its place is noticed, three stages of four are fine.
    with pytest.raises(CheckpointMismatchError, match='of another model'):
        detector(depth=101, init_cfg=init_cfg).backbone.init_weights()
    mmws.ResNetV2(out_indices=(0, 1, 2), init_cfg=init_cfg).init_weights()


def test_folds_to_plain_convolutions():
    model = randomized(mmws.ResNetV2(out_indices=(0, 1)))
    x = torch.randn(1, 3, 64, 64)
    folded = mmws.fold(model)
    assert {type(m) for m in folded.modules() if 'Conv' in type(m).__name__} == {nn.Conv2d}
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
