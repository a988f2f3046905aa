"""The guard before every load, on full-width models whose checkpoints are made here.

MMEngine resolves ``open-mmlab://`` names by ``$MMENGINE_HOME/open_mmlab.json`` first, so the
published names lead to these files.
"""

import copy
import json

import pytest
import torch
from mmcv.cnn.bricks.conv_ws import ConvWS2d as MMCVConvWS2d
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseTTAModel
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import load_checkpoint
from torch import nn

import mmws
from mmws.checkpoints import (
    CheckpointMismatchError,
    check_normalization,
    check_weights,
    describe_weights,
)
from mmws.compat import read_checkpoint
from mmws.config import read_config
from mmws.layers import GroupNorm
from tests.helpers.paths import NARROW_CONFIG, R50_CONFIG
from tests.helpers.processes import run_code

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('mmdet_registered')]
WS, GN = dict(type='mmws.ConvWS'), dict(type='mmws.GN')


def build(cfg):
    return MODELS.build(copy.deepcopy(cfg))


def backbone(depth=50, **kwargs):
    return build(dict(type='mmdet.ResNet', depth=depth, **kwargs))


def small(conv_cfg=WS, norm_cfg=GN, depth=18, base_channels=8, **kwargs):
    kwargs.update(conv_cfg=conv_cfg, norm_cfg=norm_cfg, base_channels=base_channels)
    return backbone(depth, **kwargs)


def light(state_dict, value=0.5):
    """The same keys and shapes, in a small file."""
    return {k: torch.tensor(value).expand(v.shape) for k, v in state_dict.items()}


def save(path, state_dict, meta=None):
    torch.save(dict(state_dict=state_dict, meta=meta or {}), path)
    return str(path)


def save_model(path, model):
    return save(path, model.state_dict(), dict(mmws=describe_weights(model)))


@pytest.fixture(scope='module')
def hub(tmp_path_factory, mmdet_registered):
    """Files of the published backbones' shapes, under the published names."""
    home = tmp_path_factory.mktemp('hub')
    gn = light(backbone(norm_cfg=dict(type='GN', num_groups=32)).state_dict())
    bn = light(backbone().state_dict())
    files = {'jhu/resnet50_gn_ws': gn, 'detectron/resnet50_gn': gn, 'some/resnet50_bn': bn}
    for name, weights in files.items():
        torch.save(weights, home / f'{name.replace("/", "_")}.pth')
    names = {name: f'{name.replace("/", "_")}.pth' for name in files}
    (home / 'open_mmlab.json').write_text(json.dumps(names))
    return home


@pytest.fixture
def mask_rcnn(hub, monkeypatch):
    """Builds the Mask R-CNN of the config with a checkpoint for its backbone."""
    monkeypatch.setenv('MMENGINE_HOME', str(hub))

    def make(checkpoint):
        cfg = read_config(R50_CONFIG).model
        cfg.backbone.init_cfg.checkpoint = checkpoint
        return build(cfg)

    return make


def test_bn_weights_in_the_gn_ws_config_are_refused(mask_rcnn):
    # Bug: filters of BN are loaded without their norms, and the detector trains to a lower AP.
    model = mask_rcnn('open-mmlab://some/resnet50_bn')
    with pytest.raises(CheckpointMismatchError, match=r'with Batch Normalization') as caught:
        model.init_weights()
    message = str(caught.value)
    assert '\n' not in message
    assert 'open-mmlab://some/resnet50_bn' in message
    assert 'Take open-mmlab://jhu/resnet50_gn_ws' in message
    # init_weights draws random weights before it loads; a loaded filter would be 0.5 everywhere.
    for name, parameter in model.backbone.named_parameters():
        assert not (parameter == 0.5).any(), name


def test_published_gn_ws_weights_are_accepted(mask_rcnn, log):
    model = mask_rcnn('open-mmlab://jhu/resnet50_gn_ws')
    model.init_weights()
    assert not log()
    assert (model.backbone.layer4[2].conv3.weight == 0.5).all()
    assert (model.backbone.gn1.bias == 0.5).all()


def test_gn_weights_draw_a_warning_that_names_them(mask_rcnn, log):
    model = mask_rcnn('open-mmlab://detectron/resnet50_gn')
    model.init_weights()
    (line,) = log()
    assert 'open-mmlab://detectron/resnet50_gn was trained without Weight Standardization' in line
    assert 'open-mmlab://jhu/resnet50_gn_ws' in line
    assert 'mmws.ConvAWS' in line
    assert (model.backbone.conv1.weight == 0.5).all()


def refuses(model, path, match):
    """Load and see that it is refused in one line, with every weight as before."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointMismatchError, match=match) as caught:
        load_checkpoint(model, path)
    assert '\n' not in str(caught.value)
    assert path in str(caught.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def loads(model, path):
    load_checkpoint(model, path)
    loaded = read_checkpoint(path)['state_dict']
    common = [
        k for k, v in model.state_dict().items() if k in loaded and v.shape == loaded[k].shape
    ]
    assert common
    assert all(torch.equal(model.state_dict()[key], loaded[key]) for key in common)


# ------------------------------------------------------------------------- weight functions


def test_weights_of_unknown_training_draw_a_warning(tmp_path, log):
    loads(small(), save(tmp_path / 'some.pth', small().state_dict()))
    (line,) = log()
    assert 'does not say whether it was trained with Weight Standardization' in line


def test_a_record_says_that_they_fit(tmp_path, log):
    loads(small(), save_model(tmp_path / 'some.pth', small()))
    assert not log()


def test_a_record_that_cannot_be_read_is_named_and_no_more(tmp_path, log):
    # Bug: an error that does not say which file, also for plain models.
    path = save(tmp_path / 'foreign.pth', small().state_dict(), dict(mmws='1.0'))
    load_checkpoint(small(), path)
    assert f"{path} has a meta['mmws'] that cannot be read" in log()[0]
    assert 'does not say whether' in log()[1]
    load_checkpoint(small(conv_cfg=None, norm_cfg=dict(type='GN', num_groups=8)), path)
    assert len(log()) == 2


@pytest.mark.parametrize('conv', ['plain', 'mmws.ConvAWS', 'mmws.ConvWN'])
def test_ws_weights_are_refused_by_layers_that_would_take_them_for_plain(tmp_path, conv):
    # Bug: the model convolves with filters that nobody trained.
    path = save_model(tmp_path / 'ws.pth', small())
    model = small(conv_cfg=None if conv == 'plain' else dict(type=conv))
    refuses(model, path, r'was trained with Weight Standardization, the model has (plain|.*Weight)')


@pytest.mark.parametrize('norm', ['GN', 'mmws.GN'])
def test_published_ws_weights_are_refused_by_plain_convolutions(hub, monkeypatch, norm):
    # Bug: only models with layers of mmws are looked at.
    monkeypatch.setenv('MMENGINE_HOME', str(hub))
    model = backbone(norm_cfg=dict(type=norm, num_groups=32))
    refuses(
        model, 'open-mmlab://jhu/resnet50_gn_ws', r'the model has plain convolution \(53 layers'
    )


def test_mmcvs_own_layers_take_published_ws_weights(hub, monkeypatch, log):
    monkeypatch.setenv('MMENGINE_HOME', str(hub))
    cfg = dict(conv_cfg=dict(type='ConvWS'), norm_cfg=dict(type='GN', num_groups=32))
    model = backbone(**cfg)
    assert isinstance(model.conv1, MMCVConvWS2d)
    load_checkpoint(model, 'open-mmlab://jhu/resnet50_gn_ws')
    assert not log()


@pytest.mark.parametrize('conv', ['mmws.ConvAWS', 'mmws.ConvWN', 'ConvAWS'])
def test_affine_ws_and_wn_compute_what_the_plain_model_did(tmp_path, log, conv):
    # The way for GN weights into layers with a weight function, without any loss.
    torch.manual_seed(0)
    plain = small(conv_cfg=None)
    for parameter in plain.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2 + 0.1
    model = small(conv_cfg=dict(type=conv))
    load_checkpoint(model, save_model(tmp_path / 'gn.pth', plain))
    assert not log()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('conv', ['mmws.ConvAWS', 'mmws.ScaledWS', 'mmws.ConvWN'])
def test_weight_functions_are_told_by_what_they_store_without_a_record(tmp_path, conv, log):
    path = save(tmp_path / 'some.pth', small(conv_cfg=dict(type=conv)).state_dict())
    loads(small(conv_cfg=dict(type=conv)), path)
    assert not log()
    refuses(small(), path, 'was trained with .*, the model has Weight Standardization')


def test_another_eps_draws_a_warning(tmp_path, log):
    path = save_model(tmp_path / 'bit.pth', small(dict(type='mmws.ConvWS', eps=1e-6)))
    loads(small(), path)
    (line,) = log()
    assert 'of eps=1e-06, the model has eps=1e-05' in line


def test_copies_in_memory_draw_no_warning(log):
    # Bug: a moving average warns about the weights of its own model.
    from mmengine.runner import load_state_dict

    load_state_dict(small(), small().state_dict())
    assert not log()


def test_plain_models_are_left_alone(tmp_path, log):
    # Bug: mmws interferes with models that have nothing to do with it.
    loads(
        backbone(18, base_channels=8),
        save(tmp_path / 'x.pth', {'conv1.weight': torch.ones(8, 3, 7, 7)}),
    )
    assert not log()


# ------------------------------------------------------------------------------------- norms


def test_bn_weights_under_the_same_names_are_refused(tmp_path):
    # Bug: a converted model keeps the names of its norms, and all their weights seem to fit.
    model = small(norm_cfg=dict(type='BN'))
    path = save(tmp_path / 'bn.pth', model.state_dict())
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent = model.get_submodule(name.rpartition('.')[0])
            setattr(parent, name.rpartition('.')[2], GroupNorm(module.num_features))
    refuses(model, path, r'with Batch Normalization, with running statistics of 20 layers')


def test_plain_bn_weights_are_refused_by_ws_with_bn(tmp_path):
    # Bug: conv_cfg alone is changed; frozen statistics are then those of other filters.
    path = save_model(tmp_path / 'bn.pth', small(None, dict(type='BN')))
    refuses(small(norm_cfg=dict(type='BN')), path, 'running statistics are those of other filters')


def test_gn_weights_are_refused_by_bn(tmp_path):
    weights = small(norm_cfg=dict(type='BN')).state_dict()
    weights = {k: v for k, v in weights.items() if 'running' not in k}
    path = save(tmp_path / 'gn.pth', weights)
    refuses(small(norm_cfg=dict(type='BN')), path, 'has no running statistics')


def test_another_number_of_groups_is_refused(tmp_path):
    path = save_model(tmp_path / 'gn.pth', small(norm_cfg=dict(type='mmws.GN', num_groups=4)))
    refuses(small(), path, r'trained with GN of 4 groups, the model has GN of 8 groups')


# -------------------------------------------------------------------------------------- keys


@pytest.fixture(scope='module')
def detector_cfg():
    cfg = read_config(NARROW_CONFIG).model
    cfg.backbone.base_channels = 8
    cfg.neck.in_channels = [8, 16, 32, 64]
    return cfg


def changed(cfg, **changes):
    cfg = Config(copy.deepcopy(cfg))
    cfg.merge_from_dict(changes)
    return build(cfg._cfg_dict)


def test_partial_loads_on_purpose_pass(tmp_path, detector_cfg, log):
    # Bug: fine-tuning for other classes, or with another head, is refused.
    model = build(detector_cfg)
    path = save_model(tmp_path / 'detector.pth', model)
    other = {'roi_head.bbox_head.num_classes': 3, 'roi_head.mask_head.num_classes': 3}
    loads(changed(detector_cfg, **other), path)
    without_masks = changed(detector_cfg, **{'roi_head.mask_head': None})
    loads(without_masks, path)
    loads(build(detector_cfg), save_model(tmp_path / 'boxes.pth', without_masks))
    part = copy.deepcopy(detector_cfg)
    part.backbone.init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    part = build(part)
    part.backbone.init_weights()
    assert torch.equal(part.backbone.conv1.weight, model.backbone.conv1.weight)
    fewer = small(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))
    loads(fewer, save_model(tmp_path / 'backbone.pth', small()))
    deformable = dict(dcn=dict(type='DCNv2'), stage_with_dcn=(False, True, True, True))
    path = save_model(tmp_path / 'r50.pth', small(None, depth=50))
    loads(small(None, depth=50, **deformable), path)
    assert not log()


@pytest.mark.parametrize(
    ('model', 'match'),
    [
        (dict(depth=34), r'of another model: \d+ missing \(as layer1\.2\.conv1\.weight'),
        (dict(depth=50), r'\d+ of another shape \(as layer'),
        (dict(base_channels=16), r'\d+ of another shape \(as '),
    ],
)
def test_weights_of_another_architecture_are_refused(tmp_path, model, match):
    # Bug: MMEngine logs hundreds of lines and leaves most of the model at random.
    path = save_model(tmp_path / 'r18.pth', small())
    refuses(small(**model), path, match)


def test_a_deeper_network_is_refused(tmp_path):
    path = save_model(tmp_path / 'r34.pth', small(depth=34))
    refuses(small(), path, r'\d+ unexpected \(as layer1\.2')


def test_foreign_names_are_refused_and_the_converter_named(tmp_path):
    weights = {k.replace('gn', 'bn'): v for k, v in small().state_dict().items()}
    refuses(small(), save(tmp_path / 'R.pth', weights), r'tools/convert_checkpoint\.py')


def test_a_checkpoint_without_a_common_key_is_refused(tmp_path, detector_cfg):
    # Bug: a backbone's file as load_from of a detector loads nothing, without an error.
    path = save_model(tmp_path / 'backbone.pth', small())
    refuses(build(detector_cfg), path, r'shares no weight with the model.*prefix')


# --------------------------------------------------------------------- wrappers, switch, images


class TTAModel(BaseTTAModel):
    def __init__(self, module):
        module.test_step = None
        super().__init__(module)

    def merge_preds(self, data_samples_list): ...


@MODEL_WRAPPERS.register_module()
class Wrapper(nn.Module):
    """As a wrapper for parallel training."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_wrapped_models_and_prefixed_keys_are_seen_through(tmp_path, log):
    # Bug: under DDP nothing is checked, or every key seems to be missing.
    weights = {f'module.{k}': v for k, v in small().state_dict().items()}
    path = save(tmp_path / 'ddp.pth', weights, dict(mmws=describe_weights(small())))
    with pytest.raises(CheckpointMismatchError, match='shares no weight'):
        check_weights(small(), weights)
    for model in (small(), Wrapper(small()), TTAModel(small())):
        load_checkpoint(model, path)
        with pytest.raises(CheckpointMismatchError, match='of another model'):
            load_checkpoint(model, save_model(tmp_path / 'wide.pth', small(base_channels=16)))
    parts = nn.Sequential(Wrapper(small()))
    weights = {f'0.{k}': v for k, v in small().state_dict().items()}
    load_checkpoint(parts, save(tmp_path / 'parts.pth', weights))
    (line,) = log()
    assert '0.conv1, 0.layer1.0.conv1' in line


def test_the_switch_turns_refusals_into_warnings(tmp_path, monkeypatch, log):
    monkeypatch.setenv('MMWS_CHECKPOINT_GUARD', 'warn')
    loads(small(conv_cfg=None), save_model(tmp_path / 'ws.pth', small()))
    (line,) = log()
    assert 'was trained with Weight Standardization, the model has plain convolution' in line


def test_images_normalized_otherwise_draw_a_warning(tmp_path, detector_cfg, log):
    # Bug: BGR weights fed with RGB cost several AP, without an error.
    path = save_model(tmp_path / 'detector.pth', build(detector_cfg))
    caffe = {
        'data_preprocessor.mean': [103.53, 116.28, 123.675],
        'data_preprocessor.std': [1.0, 1.0, 1.0],
        'data_preprocessor.bgr_to_rgb': False,
    }
    loads(changed(detector_cfg, **caffe), path)
    (line,) = log()
    assert 'normalized by mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]' in line
    assert 'the model normalizes by mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0]' in line


def test_a_backbone_is_compared_with_the_images_of_its_model(mask_rcnn, log):
    model = mask_rcnn('open-mmlab://detectron/resnet50_gn')
    model.backbone.init_weights()
    check_normalization(model)
    _, line = log()
    assert (
        'open-mmlab://detectron/resnet50_gn was trained on images normalized by mean=[103.53'
        in line
    )


# ---------------------------------------------------------------------------- where it is put


def test_the_guard_stands_before_mmengine_when_that_was_imported_first():
    # Bug: mmdet's own tools/train.py imports MMEngine's runner before the config imports mmws.
    code = (
        'import mmengine.runner, mmws\n'
        'from mmengine.runner import load_state_dict, checkpoint\n'
        'mmws.compat.check_before_loading(print)\n'
        'assert load_state_dict is checkpoint.load_state_dict\n'
        'assert not hasattr(load_state_dict.__wrapped__, "__wrapped__")\n'
        'layer = mmws.ConvWS2d(2, 2, 1)\n'
        'try: load_state_dict(layer, dict(other=layer.weight))\n'
        'except mmws.CheckpointMismatchError as error: print(error)'
    )
    assert 'shares no weight with the model' in run_code(code)


def test_the_state_dict_of_torchs_weight_norm_still_loads(tmp_path, log):
    # Bug: names that a layer itself translates are taken for missing ones.
    convs = [torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)) for _ in range(30)]
    path = save(
        tmp_path / 'wn.pth', nn.ModuleDict({f'a{i}': c for i, c in enumerate(convs)}).state_dict()
    )
    model = nn.ModuleDict({f'a{i}': mmws.ConvWN2d(4, 4, 3) for i in range(30)})
    load_checkpoint(model, path)
    torch.testing.assert_close(model['a7'].effective_weight(), convs[7].weight)
    assert not log()


@pytest.mark.parametrize(
    'norm',
    [
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.InstanceNorm2d(4, track_running_stats=True),
    ],
)
def test_a_model_takes_its_own_weights_with_statistics_or_without(norm):
    # Bug: the class of a norm decides whether it has statistics, and not its options.
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm)
    check_weights(model, model.state_dict())
