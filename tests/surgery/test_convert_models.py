"""`mmws.convert` on whole models of torchvision, timm and MMDetection, on small images."""

import re

import pytest
import torch
import torchvision
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import ConfigDict
from torch import nn
from torch.utils._pytree import tree_leaves

import mmws
from mmws.config import read_config
from mmws.layers import ConvWS2d, GroupNorm
from mmws.surgery.libraries import is_convolution

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('mmdet_registered')]


def plain_convs(model):
    """Return the names of the convolutions that have no weight function."""
    weighted = mmws.WeightFunctionMixin
    modules = model.named_modules()
    return [n for n, m in modules if is_convolution(m) and not isinstance(m, weighted)]


def batch_norms(model):
    return [name for name, m in model.named_modules() if 'BatchNorm' in type(m).__name__]


def check_step(losses, model):
    losses.backward()
    grads = [m.weight.grad for m in model.modules() if isinstance(m, ConvWS2d)]
    grads = [grad for grad in grads if grad is not None]
    assert grads
    assert all(grad.isfinite().all() for grad in grads)


# ---- torchvision

_SMALL = dict(weights=None, weights_backbone=None, min_size=64, max_size=64)


@pytest.mark.parametrize(
    ('name', 'plain'),
    [
        (
            'maskrcnn_resnet50_fpn',
            r'backbone\.fpn\.|rpn\.head\.|roi_heads\.mask_(head|predictor)\.',
        ),
        ('retinanet_resnet50_fpn', r'backbone\.fpn\.|head\.'),
    ],
)
def test_torchvision_detectors(name, plain):
    model = getattr(torchvision.models.detection, name)(**_SMALL)
    mmws.convert(model)
    assert not batch_norms(model)
    # Of these detectors the backbone alone is normalized.
    names = [n for n, m in model.named_modules() if is_convolution(m)]
    assert plain_convs(model) == [n for n in names if re.match(plain, n)]
    assert len(names) - len(plain_convs(model)) == 53
    target = dict(
        boxes=torch.tensor([[4.0, 4.0, 40.0, 40.0]]),
        labels=torch.tensor([1]),
        masks=torch.ones(1, 64, 64, dtype=torch.uint8),
    )
    losses = model.train()([torch.rand(3, 64, 64)], [target])
    check_step(sum(losses.values()), model)


def test_torchvision_segmenter():
    # Bug: the pooled branch of ASPP, one position an image, or the auxiliary head is missed.
    make = torchvision.models.segmentation.deeplabv3_resnet50
    model = mmws.convert(make(weights=None, weights_backbone=None, aux_loss=True))
    assert plain_convs(model) == ['classifier.4', 'aux_classifier.4']
    assert not batch_norms(model)
    out = model(torch.rand(1, 3, 64, 64))  # one image, at which BN stops
    check_step(out['out'].mean() + out['aux'].mean(), model)


# ---- timm


@pytest.mark.parametrize(
    ('name', 'plain'),
    [
        ('resnet10t', r'$'),
        ('tf_efficientnet_b0', r'.*\.se\.conv_(reduce|expand)$'),
        ('resnetv2_18', r'head\.fc$'),
    ],
)
def test_timm_models(name, plain):
    # Bug: activations inside of timm's norms are lost; squeeze and excitation is standardized.
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5)
    acts = [m.act for m in model.modules() if type(m).__name__ == 'BatchNormAct2d']
    mmws.convert(model)
    assert not batch_norms(model)
    names = [n for n, m in model.named_modules() if is_convolution(m)]
    assert plain_convs(model) == [n for n in names if re.match(plain, n)]
    assert [m.act for m in model.modules() if type(m).__name__ == 'GroupNormAct'] == acts
    x = torch.rand(2, 3, 64, 64)
    check_step(model(x).square().sum(), model)
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-3, atol=1e-4)


def test_timm_norm_with_activation_computes_both():
    timm = pytest.importorskip('timm')
    model = timm.layers.ConvNormAct(3, 8, 3, act_layer=nn.SiLU)
    mmws.convert(model)
    x = torch.rand(1, 3, 9, 9)
    conv, norm = model.conv, model.bn
    expected = nn.functional.silu(
        nn.functional.group_norm(conv(x), norm.num_groups, norm.weight, norm.bias, norm.eps)
    )
    torch.testing.assert_close(model(x), expected)


# ---- MMDetection


def narrow(model, **overrides):
    """Build the model of a config with few channels, few proposals and no pretrained weights."""
    torch.manual_seed(0)
    cfg = read_config(f'mmdet::{model}.py')
    for key in ('init_cfg', 'checkpoint'):
        cfg.model.backbone.pop(key, None)
    cfg.merge_from_dict({f'model.{key}': value for key, value in overrides.items()})
    if 'rpn' in (cfg.model.get('test_cfg') or {}):
        cfg.model.test_cfg.rpn.max_per_img = 20
        cfg.model.train_cfg.rpn_proposal.max_per_img = 20
    return MODELS.build(cfg.model)


R18 = {
    'backbone.depth': 18,
    'backbone.base_channels': 16,
    'neck.in_channels': [16, 32, 64, 128],
}
FPN = {**R18, 'neck.out_channels': 32}
# At one position, a group must have two channels at least.
RETINA = {**FPN, 'bbox_head.in_channels': 32, 'bbox_head.feat_channels': 64}
RCNN = {
    **FPN,
    'rpn_head.in_channels': 32,
    'rpn_head.feat_channels': 32,
    'roi_head.bbox_roi_extractor.out_channels': 32,
    'roi_head.mask_roi_extractor.out_channels': 32,
}
MASK_HEAD = {'in_channels': 32, 'conv_out_channels': 32}
MASK_RCNN = {
    **RCNN,
    'roi_head.bbox_head.in_channels': 32,
    'roi_head.bbox_head.fc_out_channels': 32,
    **{f'roi_head.mask_head.{k}': v for k, v in MASK_HEAD.items()},
}
DETECTORS = {
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco': (
        MASK_RCNN,
        r'neck\.|rpn_head\.|roi_head\.mask_head\.',
    ),
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco': (
        RCNN,
        r'neck\.|rpn_head\.|roi_head\.mask_head\.',
    ),
    'retinanet/retinanet_r18_fpn_1x_coco': (RETINA, r'neck\.|bbox_head\.'),
    # GN in the base's head: standardized convolutions, the norms as they are.
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco': (RETINA, r'neck\.|bbox_head\.conv_'),
    'yolox/yolox_tiny_8xb8-300e_coco': ({}, r'bbox_head\.multi_level_conv_'),
    # Squeeze and excitation; the heads share convolutions over the levels.
    'rtmdet/rtmdet_tiny_8xb32-300e_coco': ({}, r'.*\.attention\.fc$|bbox_head\.rtm_'),
    'detr/detr_r18_8xb2-500e_coco': ({}, r'neck\.'),
}


def shrink_heads(cfg):
    """Narrow the three box and mask heads of a cascade, which a dotted key does not reach."""
    if isinstance(cfg.get('bbox_head'), list):
        for head in cfg.bbox_head:
            head.update(in_channels=32, fc_out_channels=32)
        cfg.mask_head.update(MASK_HEAD)


@pytest.mark.parametrize('name', DETECTORS)
def test_mmdet_detectors(name):
    overrides, plain = DETECTORS[name]
    if 'cascade' in name:
        heads = read_config(f'mmdet::{name}.py').model.roi_head
        shrink_heads(heads)
        overrides = {
            **overrides,
            'roi_head.bbox_head': heads.bbox_head,
            'roi_head.mask_head': heads.mask_head,
        }
    model = narrow(name, **overrides)
    mmws.convert(model)
    assert not batch_norms(model)
    names = [n for n, m in model.named_modules() if is_convolution(m)]
    assert plain_convs(model) == [n for n in names if re.match(plain, n)]
    assert model.conversion_report.convs
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {
        n for n, p in model.named_parameters() if re.match(frozen_part(model), n)
    }

    with_mask = 'mask' in name
    batch = demo_mm_inputs(1, [[3, 64, 64]], num_items=[2], num_classes=3, with_mask=with_mask)
    data = model.data_preprocessor(batch)
    loss, _ = model.parse_losses(model.train()(**data, mode='loss'))
    assert loss.isfinite()
    check_step(loss, model)

    # In training, one image gives the same features with and without another one beside it.
    images = torch.rand(2, 3, 64, 64)
    pair, single = (tree_leaves(model.extract_feat(x)) for x in (images, images[:1]))
    for both, alone in zip(pair, single):
        torch.testing.assert_close(both[:1], alone, rtol=1e-3, atol=1e-4)


def test_a_detector_that_is_given_regions_is_checked():
    # Bug: Fast R-CNN "cannot be run", since it has nothing to propose regions with.
    model = narrow(
        'fast_rcnn/fast-rcnn_r50_fpn_1x_coco',
        **FPN,
        **{
            'roi_head.bbox_roi_extractor.out_channels': 32,
            'roi_head.bbox_head.in_channels': 32,
            'roi_head.bbox_head.fc_out_channels': 32,
        },
    )
    assert mmws.check_conversion(mmws.convert(model))


def test_a_detector_that_assigns_boxes_to_objects_is_checked():
    # Bug: CondInst "has no attribute _gt_instances", since its masks are those of assigned boxes.
    model = narrow(
        'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance',
        **RETINA,
        **{'mask_head.mask_feature_head.in_channels': 32},
    )
    check = mmws.check_conversion(mmws.convert(model))
    assert check
    assert not check.unchecked


def frozen_part(model):
    """What `frozen_stages` of a ResNet freezes, and goes on freezing."""
    stages = getattr(model.backbone, 'frozen_stages', -1)
    if stages < 0:
        return r'$^'
    return rf'backbone\.(conv1|gn1|layer[1-{max(stages, 1)}])\.'


def test_equals_the_model_that_mmdet_builds_with_gn_and_ws():
    # Bug: a converted detector and the same one built with conv_cfg and norm_cfg have different
    # names, so that published weights do not fit, or compute differently.
    name = 'gn+ws/mask-rcnn_r50_fpn_gn-ws-all_2x_coco'
    overrides = {
        **MASK_RCNN,
        'roi_head.bbox_head.conv_out_channels': 32,
        # The 32 groups of the config must divide every width.
        'backbone.base_channels': 32,
        'neck.in_channels': [32, 64, 128, 256],
    }
    built = narrow(name, **overrides)
    parts = ('backbone', 'neck', 'roi_head.bbox_head', 'roi_head.mask_head')
    plain = {f'{part}.conv_cfg': None for part in parts}
    bn = {f'{part}.norm_cfg': ConfigDict(type='BN', _delete_=True) for part in parts}
    converted = mmws.convert(narrow(name, **overrides, **plain, **bn))
    assert list(converted.state_dict()) == list(built.state_dict())
    for (path, ours), theirs in zip(converted.named_modules(), built.modules()):
        mmcv_name = {'ConvWS2d': ConvWS2d, 'GroupNorm': GroupNorm}.get(type(theirs).__name__)
        assert type(ours) is (mmcv_name or type(theirs)), path
    converted.load_state_dict(built.state_dict())
    batch = demo_mm_inputs(1, [[3, 64, 64]], num_classes=80, with_mask=True)
    outputs = []
    for model in (built, converted):
        model.double().eval()
        data = model.data_preprocessor(batch, training=False)
        with torch.no_grad():
            outputs.append(
                tree_leaves(model(data['inputs'].double(), data['data_samples'], mode='tensor'))
            )
    torch.testing.assert_close(*outputs)


def test_weights_are_initialized_as_they_were():
    # Bug: init_weights() of a converted detector passes over the layers it used to reach.
    model = narrow('retinanet/retinanet_r18_fpn_1x_coco', **RETINA)
    mmws.convert(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model.init_weights()
    untouched = [name for name, p in model.named_parameters() if (p == 7).all()]
    assert not untouched
    norms = [m for m in model.modules() if isinstance(m, GroupNorm)]
    assert {m.weight.unique().item() for m in norms} == {0, 1}  # 0: the last of each block
