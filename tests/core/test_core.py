"""What works with PyTorch and torchvision alone, on models of torchvision and timm.

``tests/test_without_openmmlab.py`` runs this file where MMEngine, MMCV and MMDetection are missing.
"""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import MultiScaleRoIAlign

import mmws
from mmws import layers
from mmws.checkpoints import Checkpoint, check_weights

WIDTH = 16


def mask_rcnn() -> MaskRCNN:
    """Mask R-CNN of torchvision with FPN, narrow, for images of 64 × 64 pixels."""
    stages = {f'layer{i}': str(i) for i in range(1, 5)}
    body = ResNet(BasicBlock, [1, 1, 1, 1])
    pools = {
        f'{name}_roi_pool': MultiScaleRoIAlign(['1', '2'], output_size=size, sampling_ratio=2)
        for name, size in (('box', 7), ('mask', 14))
    }
    return MaskRCNN(
        BackboneWithFPN(body, stages, [64, 128, 256, 512], WIDTH, norm_layer=nn.BatchNorm2d),
        rpn_anchor_generator=AnchorGenerator(((8,), (16,), (32,), (48,), (64,)), ((1.0,),) * 5),
        box_head=TwoMLPHead(WIDTH * 49, 32),
        box_predictor=FastRCNNPredictor(32, 3),
        mask_head=MaskRCNNHeads(WIDTH, (WIDTH,), 1, norm_layer=nn.BatchNorm2d),
        mask_predictor=MaskRCNNPredictor(WIDTH, WIDTH, 3),
        min_size=64,
        max_size=64,
        rpn_pre_nms_top_n_train=50,
        rpn_post_nms_top_n_train=20,
        rpn_pre_nms_top_n_test=20,
        rpn_post_nms_top_n_test=10,
        box_score_thresh=0.0,
        **pools,
    )


def target() -> dict[str, Tensor]:
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[:, 10:40, 8:50] = 1
    return dict(boxes=torch.tensor([[8.0, 10.0, 50.0, 40.0]]), labels=torch.tensor([1]), masks=mask)


class Features(nn.Module):
    """The convolutions of a Mask R-CNN before its proposals are chosen.

    What follows, torchvision's selection of boxes, branches on the number of boxes, which
    :func:`torch.export.export` refuses with or without mmws.
    """

    def __init__(self, detector: MaskRCNN) -> None:
        super().__init__()
        self.backbone, self.rpn_head = detector.backbone, detector.rpn.head

    def forward(self, images: Tensor) -> list[Tensor]:
        features = list(self.backbone(images).values())
        scores, deltas = self.rpn_head(features)
        return [*features, *scores, *deltas]


def batch_norms(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def weighted(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, layers.WeightFunctionMixin)]


def train_step(model: nn.Module, loss: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss.backward()
    for layer in weighted(model):
        assert layer.weight.grad is not None
        assert layer.weight.grad.isfinite().all()
    before = weighted(model)[0].weight.detach().clone()
    optimizer.step()
    optimizer.zero_grad()
    assert not torch.equal(before, weighted(model)[0].weight)


@pytest.mark.slow
def test_mask_rcnn_of_torchvision_is_converted_trained_folded_and_exported():
    # Bug: conversion or folding knows layers by MMCV's classes, and stops without MMCV.
    torch.manual_seed(0)
    detector = mmws.convert(mask_rcnn())
    assert not batch_norms(detector)
    assert type(detector.backbone.body.layer1[0].conv1) is mmws.ConvWS2d
    assert type(detector.roi_heads.mask_head[0][0]) is mmws.ConvWS2d
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 64)]
    losses = detector.train()(images, [target(), target()])
    train_step(detector, sum(losses.values()))

    detector.eval()
    plain = mmws.fold(detector)
    assert not [m for m in plain.modules() if type(m).__module__.startswith('mmws')]
    with torch.no_grad():
        for ours, folded in zip(detector(images), plain(images)):
            assert len(ours['boxes'])
            for name in ('boxes', 'scores', 'masks'):
                torch.testing.assert_close(folded[name], ours[name], rtol=1e-3, atol=1e-3)
        batch = torch.stack(images)
        program = torch.export.export(Features(plain), (batch,)).module()
        torch.testing.assert_close(program(batch), Features(plain)(batch))


@pytest.mark.slow
@pytest.mark.parametrize('conv', ['WS', 'WN'])
def test_a_resnet_of_timm_is_converted_trained_folded_and_exported(conv):
    # Bug: as above, for a model whose blocks are not torchvision's.
    torch.manual_seed(0)
    model = mmws.convert(timm.create_model('resnet10t', num_classes=5), conv=conv)
    assert not batch_norms(model)
    assert len(weighted(model)) > 10
    images = torch.rand(2, 3, 64, 64)
    loss = nn.functional.cross_entropy(model.train()(images), torch.tensor([0, 3]))
    train_step(model, loss)

    plain = mmws.fold(model.eval())
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(plain(images), expected, rtol=1e-4, atol=1e-4)
        program = torch.export.export(plain, (images,)).module()
        torch.testing.assert_close(program(images), expected, rtol=1e-4, atol=1e-4)


def test_weight_norm_is_initialised_on_a_batch():
    # Bug: the initialisation needs the process groups of MMEngine.
    torch.manual_seed(0)
    model = timm.create_model('resnet10t', num_classes=5)
    model = mmws.convert(model, conv='WN', norm=None).train()
    images = torch.randn(4, 3, 64, 64)
    report = mmws.init_weight_norm(model, images)
    assert report.initialized[0] == 'conv1.0'
    assert not report.not_executed
    output = model.conv1[0](images)
    torch.testing.assert_close(output.std((0, 2, 3), correction=0), torch.ones(24))


@pytest.mark.parametrize('name', ['mmws.ConvWS', 'ScaledWS', dict(type='WS', eps=1e-4)])
def test_layers_are_known_by_name(name):
    # Bug: a name that a config may have is unknown without MMEngine's registry.
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    converted = mmws.convert(model, conv=name, norm='mmws.GN')
    assert isinstance(converted[0], layers.WeightFunctionMixin)
    assert type(converted[1]) is mmws.GroupNorm


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match=r"conv='nothing' is unknown"):
        mmws.convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), conv='nothing')


@pytest.mark.parametrize(
    'cls',
    [
        layers.ConvSamePaddingWS2d,
        layers.ConvSamePaddingWN2d,
        layers.DeformConvPackWS2d,
        layers.DeformConvPackWN2d,
        layers.ModulatedDeformConvPackWS2d,
        layers.ModulatedDeformConvPackWN2d,
    ],
)
def test_layers_that_derive_from_mmcv(cls):
    # Bug: the layer is missing, or computes something else, where MMCV is not installed.
    torch.manual_seed(0)
    layer = cls(4, 6, 3, stride=2, padding=1)
    if hasattr(layer, 'conv_offset'):
        nn.init.normal_(layer.conv_offset.weight, std=0.1)
    x = torch.randn(2, 4, 9, 7, requires_grad=True)
    y = layer(x)
    assert y.shape == (2, 6, 5, 4)
    y.square().sum().backward()
    assert x.grad.isfinite().all()
    assert layer.weight.grad.abs().sum() > 0
    plain = mmws.fold(nn.Sequential(layer).eval())
    with torch.no_grad():
        torch.testing.assert_close(plain(x), layer.eval()(x), rtol=1e-4, atol=1e-5)


def test_weights_are_saved_read_and_checked(tmp_path):
    # Bug: checkpoints can be read and compared with a model in programs of MMEngine alone.
    model = nn.Sequential(mmws.ConvWS2d(3, 8, 3), mmws.GroupNorm(8))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'x.pth')
    weights = Checkpoint.read(tmp_path / 'x.pth').weights
    (warning,) = check_weights(model, weights, strict=True)
    assert 'x.pth does not say' in warning
    with pytest.raises(mmws.CheckpointMismatchError, match=r'x\.pth'):
        check_weights(nn.Sequential(nn.Linear(3, 3)), weights, strict=True)


def test_the_group_count_is_logged(caplog):
    # Bug: a warning of a layer reaches nobody outside of MMEngine.
    mmws.GroupNorm(38, num_groups=32)
    assert '38 channels; using 19 groups' in caplog.text
