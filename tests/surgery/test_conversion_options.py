"""What a conversion is asked to leave out, what it refuses, and what it leaves as it was."""

import copy
import io
import json
import re
import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmcv.cnn import ConvModule, fuse_conv_bn
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

import mmws
from mmws.surgery import registered
from mmws.surgery.feeds import tracer
from mmws.surgery.libraries import is_batch_norm
from mmws.surgery.norm_target import NormTarget


def two_blocks():
    return nn.Sequential(
        *(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU()) for _ in range(2))
    )


@pytest.mark.parametrize(
    'options',
    [
        dict(skip='1'),
        dict(skip=['1.0', '1.1']),
        dict(skip='1.?'),
        dict(skip=re.compile(r'^1\.')),
        dict(skip=lambda name, module: name.startswith('1.')),
        dict(only='0'),
        dict(only=['0.0', '0.1']),
        dict(only='0*', skip='1'),
    ],
    # A function's text holds its address, by which the processes of a parallel run would differ.
    ids=['name', 'names', 'glob', 'regex', 'function', 'only', 'only_names', 'only_and_skip'],
)
def test_layers_are_chosen(options):
    # Bug: the choice is not respected for norms, or not for what is inside of a module.
    model = mmws.convert(two_blocks(), **options)
    assert [type(m).__name__ for m in model[0]] == ['ConvWS2d', 'GroupNorm', 'ReLU']
    assert [type(m).__name__ for m in model[1]] == ['Conv2d', 'BatchNorm2d', 'ReLU']
    assert {left.name for left in model.conversion_report.left} == {'1.0', '1.1'}


@pytest.mark.parametrize('options', [dict(skip='2'), dict(only='backbone.*'), dict(skip=3)])
def test_a_choice_of_nothing_is_a_mistake(options):
    # Bug: a misspelt name converts what it should have kept.
    model = two_blocks()
    with pytest.raises((ValueError, TypeError), match=r'skip|only|iterable'):
        mmws.convert(model, **options)
    assert type(model[0][0]) is nn.Conv2d


def test_a_skipped_summand_keeps_the_other_plain():
    # Bug: a sum of which the user keeps one part is half standardized.
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.a(x) + self.b(x))

    assert not mmws.convert(Sum(), skip='a').conversion_report.convs


# ---- Norms


@pytest.mark.parametrize('norm', ['GN', 'LN', 'IN', 'BCN'])
@pytest.mark.parametrize('affine', [True, False])
def test_norms_keep_eps_and_stay_without_gains(norm, affine):
    # Bug: eps=1e-3 of MobileNetV3 becomes 1e-5; a norm without gains stops the conversion.
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32, eps=1e-3, affine=affine))
    mmws.convert(model, norm=norm)
    assert model[1].eps == 1e-3
    assert bool(list(model[1].parameters())) is affine
    assert model.eval()(torch.randn(1, 3, 9, 9)).isfinite().all()
    assert mmws.convert(two_blocks(), norm=dict(type='GN', eps=1e-4))[0][1].eps == 1e-4


def test_the_default_device_does_not_matter():
    # Bug: random inputs had a generator of the CPU, but were made on the default device, as were
    # the layers whose gains a converted one takes.
    frozen = nn.Sequential(nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4), nn.Conv2d(4, 3, 3))
    for model in (
        nn.Sequential(two_blocks(), frozen),
        ConvModule(3, 4, 3, norm_cfg=dict(type='BN')),
    ):
        with torch.device('meta'):
            mmws.convert(model, 'WN')
            check = mmws.check_conversion(model)
            mmws.fold(model)
        assert check
        assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {'cpu'}


def test_a_norm_with_a_forward_of_the_instance_stays():
    # Bug: it became Group Normalization, and its forward then missed the running statistics.
    model = two_blocks()
    norm = model[0][1]
    norm.forward = lambda x: torch.nn.functional.batch_norm(x, norm.running_mean, norm.running_var)
    mmws.convert(model, inputs=torch.randn(1, 3, 9, 9))
    assert type(norm) is nn.BatchNorm2d
    assert type(model[1][1]) is mmws.GroupNorm
    reasons = {left.name: left.reason for left in model.conversion_report.left}
    assert reasons['0.1'] == 'batch normalization with a forward of its own'
    assert model(torch.randn(1, 3, 9, 9)).isfinite().all()


def test_gains_are_kept_where_the_norm_has_none_by_default():
    # Bug: 'IN2d' dropped trained gains and offsets, for PyTorch's instance norm has affine=False.
    model = two_blocks()
    for norm in (model[0][1], model[1][1]):
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    expected = model[0][1].weight, model[0][1].bias
    mmws.convert(model, norm='IN2d')
    assert isinstance(model[0][1], nn.InstanceNorm2d)
    assert (model[0][1].weight, model[0][1].bias) == expected
    asked = mmws.convert(two_blocks(), norm=dict(type='IN2d', affine=False))
    assert asked[0][1].weight is None
    for norm, affine in (('IN2d', True), ('GN', False)):
        block = ConvModule(3, 32, 1, norm_cfg=dict(type='BN', affine=affine))
        mmws.convert(block, norm=norm)
        twin = ConvModule(3, 32, 1, conv_cfg=block.conv_cfg, norm_cfg=block.norm_cfg)
        assert twin.state_dict().keys() == block.state_dict().keys()


def test_blocks_of_mmcv_remember_eps_and_groups():
    # Bug: the block built from what the converted one remembers computes something else.
    model = ConvModule(3, 64, 1, norm_cfg=dict(type='BN', eps=1e-3))
    mmws.convert(model, norm=dict(type='GN', num_groups=16))
    twin = ConvModule(3, 64, 1, conv_cfg=model.conv_cfg, norm_cfg=model.norm_cfg)
    assert (twin.gn.eps, twin.gn.num_groups) == (1e-3, 16)


@pytest.mark.parametrize(('width', 'groups'), [(16, 1), (32, 2), (64, 4), (512, 32), (17, 1)])
def test_groups_of_single_positions_have_values_to_average(width, groups):
    # Bug: each group holds one value, and the output is the offset alone.
    model = nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width))
    mmws.convert(model, inputs=torch.randn(4, 8))
    assert isinstance(model[0], mmws.LinearWS)
    assert model[1].num_groups == groups
    model(torch.randn(1, 8)).square().sum().backward()


def test_global_pooling_gets_fewer_groups_and_small_images_do_not():
    # Bug: a map that is small because the traced image is gets other groups than published weights.
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 64, 8, 64), nn.BatchNorm2d(64))
            self.gate = nn.Sequential(nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64))

        def forward(self, x):
            return self.gate(self.stem(x).mean((2, 3), keepdim=True))

    model = mmws.convert(Pooled())
    assert model.stem[1].num_groups == 32
    assert model.gate[1].num_groups == 4
    assert mmws.convert(Pooled(), norm='IN').gate[1].num_groups == 4


def test_single_values_are_left():
    model = nn.Sequential(nn.Linear(8, 1), nn.BatchNorm1d(1))
    mmws.convert(model, inputs=torch.randn(4, 8))
    assert type(model[1]) is nn.BatchNorm1d
    assert 'single values' in str(model.conversion_report)


# ---- Whole or not at all


def test_a_failure_changes_nothing(monkeypatch):
    # Bug: an error in the middle leaves a model that is neither one thing nor the other.
    model = two_blocks()
    model[0].init_cfg = dict(type='Normal', layer='Conv2d', override=dict(name='bn'))
    before = copy.deepcopy(model)
    replace, calls = NormTarget.put_into, []

    def fail_at_the_second(*args):
        replace(*args)
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError

    monkeypatch.setattr(NormTarget, 'put_into', fail_at_the_second)
    with pytest.raises(MemoryError):
        mmws.convert(model)
    for (name, module), twin in zip(model.named_modules(), before.modules()):
        assert type(module) is type(twin), name
        assert vars(module).keys() == vars(twin).keys(), name
    assert model[0].init_cfg == before[0].init_cfg
    torch.testing.assert_close(dict(model.state_dict()), dict(before.state_dict()))


def test_wrapped_models_are_refused(tmp_path):
    # Bug: the wrapper goes on with parameters that are no longer in the model.
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        net = two_blocks()
        for model in (
            nn.parallel.DistributedDataParallel(net),
            nn.Sequential(nn.parallel.DistributedDataParallel(net)),
        ):
            with pytest.raises(TypeError, match=r'convert model\.(0\.)?module'):
                mmws.convert(model)
        assert type(net[0][0]) is nn.Conv2d
    finally:
        dist.destroy_process_group()
    with pytest.raises(TypeError, match=r'torch\.compile'):
        mmws.convert(torch.compile(two_blocks()))
    with pytest.raises(TypeError, match='TorchScript'):
        mmws.convert(torch.jit.script(two_blocks()))


def test_fixed_parts_and_nothing_at_all_are_told():
    # Bug: a fused, quantized or scripted model is returned as it was without a word.
    script = torch.jit.trace(two_blocks().eval(), torch.randn(1, 3, 8, 8))
    notes = mmws.convert(nn.Sequential(nn.Conv2d(3, 3, 1), script)).conversion_report.notes
    assert 'TorchScript modules stay as they are: 1' in ' '.join(notes)
    fused = mmws.convert(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
    assert 'no normalization' in ' '.join(fused.conversion_report.notes)
    quantized = nn.Sequential(
        torch.ao.nn.qat.Conv2d(3, 4, 1, qconfig=torch.ao.quantization.default_qat_qconfig),
        nn.BatchNorm2d(4),
    )
    left = mmws.convert(quantized).conversion_report.left
    assert [entry.reason for entry in left if entry.name == '0'] == [
        'is prepared for quantization: convert the model before that'
    ]


def test_layers_that_are_fused_for_quantization_stay_whole():
    # Bug: the norm inside of the fused layer, whose statistics it computes with, is replaced.
    pair = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    qconfig = torch.ao.quantization.default_qat_qconfig
    pair.qconfig = qconfig
    fused = torch.ao.quantization.fuse_modules_qat(pair.train(), ['0', '1'])
    model = torch.ao.quantization.prepare_qat(fused)
    mmws.convert(model)
    assert not model.conversion_report.norms
    reasons = {left.reason for left in model.conversion_report.left}
    assert reasons == {'is prepared for quantization: convert the model before that'}
    model(torch.randn(2, 3, 4, 4))


def test_new_parameters_are_told():
    # Bug: an optimizer that was made before leaves the new gains as they are.
    notes = mmws.convert(two_blocks(), 'WN').conversion_report.notes
    assert [note for note in notes if '2 parameters are new' in note]
    assert not mmws.convert(two_blocks()).conversion_report.notes


def test_report_as_text_table_and_dictionary():
    report = mmws.convert(two_blocks(), skip='1').conversion_report
    data = json.loads(json.dumps(report.to_dict()))
    assert data['convs'] == [{'name': '0.0', 'before': 'Conv2d', 'after': 'ConvWS2d'}]
    assert data['left'][0]['reason'] == 'skipped by skip='
    lines = report.table().splitlines()
    assert lines[0] == '| layer | before | now |'
    assert '| 0.0 | Conv2d | ConvWS2d |' in lines
    assert len(lines) == 2 + 4


# ---- Other tools afterwards


def warmed(model):
    model.train()
    for _ in range(3):
        model(torch.randn(4, 3, 8, 8) * 2 + 1)
    return model.eval()


def test_fusing_into_a_stored_weight_is_refused():
    # Bug: the factors of Batch Normalization are multiplied in, and standardized away.
    torch.manual_seed(0)
    model = warmed(mmws.convert(two_blocks(), norm=None))
    x = torch.randn(1, 3, 8, 8)
    expected = model(x)
    with pytest.raises(ValueError, match=r'mmws\.fold'):
        fuse_conv_bn_eval(model[0][0], model[0][1])
    with pytest.raises(ValueError, match=r'mmws\.fold'):
        fuse_conv_bn(copy.deepcopy(model))
    torch.testing.assert_close(model(x), expected)
    folded = mmws.fold(model)
    torch.testing.assert_close(fuse_conv_bn(folded)(x), expected, rtol=1e-4, atol=1e-5)


def test_fusing_on_the_fly_is_refused():
    # Bug: the block that MMCV builds with BN convolves with the stored weight in evaluation.
    block = ConvModule(
        3, 4, 3, conv_cfg=dict(type='mmws.ConvWS'), norm_cfg=dict(type='BN'),
        efficient_conv_bn_eval=True,
    )  # fmt: skip
    block(torch.randn(2, 3, 8, 8))
    block.eval()
    with pytest.raises(RuntimeError, match=r'ConvWS2d\._conv_forward .*mmws\.fold') as caught:
        block(torch.randn(2, 3, 8, 8))
    assert '\n' not in str(caught.value)
    mmws.fold(block)(torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ('module', 'name'),
    [
        ('torch.utils.mkldnn', 'to_mkldnn'),
        (
            'mmengine.model.efficient_conv_bn_eval',
            'turn_on_efficient_conv_bn_eval_for_single_model',
        ),
    ],
)
def test_tools_that_read_stored_weights_are_refused(module, name):
    # Bug: to_mkldnn copies the stored weights into plain layers; MMEngine's tool ends in KeyError.
    model = warmed(mmws.convert(two_blocks(), norm=None))
    tool = getattr(import_module(module), name)
    with pytest.raises(ValueError, match=rf'{name} .* 0\.0 \(ConvWS2d\).*mmws\.fold') as caught:
        tool(model)
    assert '\n' not in str(caught.value)
    x = torch.randn(1, 3, 8, 8)
    expected = model(x)
    folded = mmws.fold(model)
    result = tool(folded)
    if result is None:  # MMEngine changes the model in place
        torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-5)
    else:
        out = result(x.to_mkldnn()).to_dense()
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


class ForeignLinear(nn.Module):
    """A linear layer that shares no base with PyTorch's, as PyTorch Geometric's."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels))
        self.bias = nn.Parameter(torch.randn(out_channels))

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)


@pytest.mark.parametrize('conv', ['WS', 'AWS', 'WN'])
def test_the_linear_layer_of_pytorch_geometric(monkeypatch, conv):
    # Bug: it gets GN behind it while it stays plain, and no report names it.
    geometric = ModuleType('torch_geometric.nn.dense.linear')
    geometric.Linear = ForeignLinear
    monkeypatch.setitem(sys.modules, geometric.__name__, geometric)
    model = nn.Sequential(ForeignLinear(5, 32), nn.BatchNorm1d(32), nn.ReLU(), ForeignLinear(32, 3))
    x = torch.randn(4, 5)
    before = model[0](x)
    mmws.convert(model, conv)
    assert [type(layer).__name__ for layer in model][::3] == [f'Linear{conv}', 'ForeignLinear']
    assert mmws.check_conversion(model)
    if conv != 'WS':
        torch.testing.assert_close(model[0](x), before)
    repr(model)
    expected = model.eval()(x)
    folded = mmws.fold(model)
    assert type(folded[0]) is nn.Linear
    torch.testing.assert_close(folded(x), expected)


class ForeignTransformer(nn.Module):
    """A model of transformers; ``patchify`` is a convolution or a linear layer, and a norm."""

    def __init__(self, patchify):
        super().__init__()
        self.patchify = patchify
        self.config = SimpleNamespace(num_channels=3, patch_size=4, image_size=64)


class OfAnyInput(ForeignTransformer):
    """Its main input has no name that tells what it is, as Perceiver's."""

    main_input_name = 'inputs'

    def forward(self, inputs=None, pixel_values=None):
        return self.patchify(inputs if pixel_values is None else pixel_values)


class OfPatches(ForeignTransformer):
    """It takes the patches of an image of any shape, as SigLIP 2."""

    main_input_name = 'pixel_values'

    def forward(self, pixel_values, pixel_attention_mask, spatial_shapes):
        assert pixel_attention_mask.sum(1).tolist() == spatial_shapes.prod(1).tolist()
        return self.patchify(pixel_values)


@pytest.mark.parametrize(
    'model',
    [
        OfAnyInput(nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.GroupNorm(4, 32))),
        OfPatches(nn.Sequential(nn.Linear(48, 32, bias=False), nn.LayerNorm(32))),
    ],
    ids=lambda model: type(model).__name__,
)
def test_inputs_of_transformers(monkeypatch, model):
    # Bug: no input is known, the model does not run, and its layers are judged by structure.
    transformers = ModuleType('transformers')
    transformers.PreTrainedModel = ForeignTransformer
    monkeypatch.setitem(sys.modules, 'transformers', transformers)
    report = mmws.convert(model).conversion_report
    assert [change.name for change in report.convs] == ['patchify.0']
    assert not [note for note in report.notes if 'stopped early' in note]
    assert mmws.check_conversion(model)


def test_an_mmdetection_that_cannot_be_imported_does_not_matter(monkeypatch):
    # Bug: MMEngine's search for a name imports MMDetection, whose error ends the conversion of a
    # model of another library, as it does beside a version of transformers that it does not know.
    monkeypatch.setattr(registered.MODELS, 'get', None)
    model = mmws.convert(two_blocks())
    assert [type(m).__name__ for m in model[0]] == ['ConvWS2d', 'GroupNorm', 'ReLU']


class ReadsItsNorm(nn.Sequential):
    """A model that reads what its batch normalization holds, as kornia's descriptors do."""

    def _apply(self, fn, recurse=True):
        statistics = [t for t in (self[1].running_mean, self[1].running_var) if t is not None]
        super()._apply(fn, recurse)
        assert len(statistics) == (2 if self[1].track_running_stats else 0)
        return self

    def forward(self, x):
        return super().forward(x).reshape(len(x), self[1].num_features, -1)


@pytest.mark.parametrize('norm', ['GN', 'BCN'])
@pytest.mark.parametrize('affine', [True, False])
def test_norms_still_have_the_attributes_of_batch_norm(norm, affine):
    # Bug: the converted model cannot be moved to another device or dtype, or cannot be run.
    model = ReadsItsNorm(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32, affine=affine))
    x = torch.randn(2, 3, 8, 8)
    mmws.convert(model, norm=norm, inputs=x)
    for form in (model, mmws.fold(model)):
        assert not is_batch_norm(form[1])
        assert '1.running_mean' not in form.state_dict()
        assert form.double()(x.double()).shape == (2, 32, 36)


class NormByItself(nn.Module):
    """A model that normalizes with the tensors of a layer, without a call of the layer."""

    def __init__(self, affine):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32, affine=affine)
        self.block = nn.Sequential(nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32, affine=affine))

    def forward(self, x):
        n = self.norm
        statistics = n.running_mean, n.running_var
        x = nn.functional.batch_norm(self.conv(x), *statistics, n.weight, n.bias, self.training)
        return self.block(x)


@pytest.mark.parametrize('affine', [True, False])
def test_a_norm_that_is_never_called_stays(affine):
    # Bug: it becomes GN, whose statistics the model does not find, so that the model cannot run.
    model = NormByItself(affine)
    mmws.convert(model)
    assert type(model.norm) is nn.BatchNorm2d
    assert type(model.block[1]) is mmws.GroupNorm
    left = {layer.name: layer.reason for layer in model.conversion_report.left}
    assert left['norm'] == 'the model reads its parameters or statistics by itself'
    assert model.eval()(torch.randn(1, 3, 8, 8)).shape == (1, 32, 6, 6)


class Careless(nn.Sequential):
    """A model that goes on whatever its layers raise."""

    def forward(self, x):
        try:
            return super().forward(x)
        except Exception:
            return x


@pytest.mark.parametrize('kind', [nn.Sequential, Careless])
def test_errors_of_the_conversion_do_not_pass_for_the_models(monkeypatch, kind):
    # Bug: a defect of the tracer ends the traced run, and half of the model stays plain.
    monkeypatch.setattr(tracer, 'storage_key', None)
    with pytest.raises(TypeError, match='NoneType'):
        mmws.convert(kind(*two_blocks()))


class Failing(nn.Module):
    """A model that takes no input that anybody knows."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x)) @ torch.ones(5, 5)


def test_errors_of_the_model_are_told(monkeypatch):
    report = mmws.convert(Failing()).conversion_report
    assert len(report.convs) == 1  # what ran before the error counts
    with pytest.raises(ValueError, match=r'inputs given: RuntimeError: .*shapes'):
        mmws.convert(Failing(), inputs=torch.zeros(1, 3, 4, 4))


def test_other_new_weights_are_taken():
    # Bug: the refusal hits whoever replaces, casts or ties a weight.
    layer = mmws.ConvWS2d(3, 4, 3).eval()
    for weight in (torch.randn(4, 3, 3, 3), layer.weight.detach().clone(), torch.zeros(2, 3, 3, 3)):
        layer.weight = nn.Parameter(weight)
    layer.weight = nn.Parameter(layer.weight.bfloat16())
    layer.train().weight = nn.Parameter(layer.weight * 2)


@pytest.mark.parametrize('layer', [mmws.ConvWS2d(3, 4, 3), mmws.ConvWN2d(3, 4, 3)])
@pytest.mark.parametrize('count', [1, 4])
def test_filters_are_set_to_zero_in_evaluation(layer, count):
    # Bug: a factor of 0 passed for one of Batch Normalization, and pruning was refused.
    layer = copy.deepcopy(layer).eval()
    weight = layer.weight.detach().clone()
    weight[:count] = 0
    layer.weight = nn.Parameter(weight)
    assert not layer(torch.ones(1, 3, 3, 3))[:, :count].sub(layer.bias[:count, None, None]).any()
    if count < 4:  # the filters that are left are still guarded
        with pytest.raises(ValueError, match='every filter multiplied'):
            layer.weight = nn.Parameter(layer.weight * 2)


class Reparameterized(nn.Module):
    """A block that makes one convolution of two for inference, as RepVGG's does."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 1, bias=False), nn.BatchNorm2d(32)

    def forward(self, x):
        return self.norm(self.conv(x))

    def reparameterize(self, check=False):
        self.conv.weight.data *= (self.norm.weight / self.norm.running_var.sqrt()).view(-1, 1, 1, 1)
        self.norm = nn.Identity()

    def fuse_features(self, x, y):
        return x + y


class FusesFeatures(nn.Module):
    """A block whose methods add feature maps up, in the words of those that fuse layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return self.fuse(y, y) + self.fuse_bn(y) + self.merge_bn(x=y)

    def fuse(self, *features):
        return sum(features)

    def fuse_bn(self, x=None):
        return x

    def merge_bn(self, *, x):
        return x


def test_methods_that_fuse_feature_maps_stay():
    # Bug: `fuse(*features)` and `fuse(x=None)` can be called without arguments, and were replaced
    # by a function that returns the module.
    assert mmws.convert(FusesFeatures())(torch.randn(1, 3, 4, 4)).shape == (1, 32, 4, 4)


@pytest.mark.parametrize('norm', ['GN', None])
def test_blocks_that_fuse_themselves_stay_as_they_are(norm):
    # Bug: the method reads the stored filter, or statistics that are gone.
    torch.manual_seed(0)
    model = warmed(mmws.convert(Reparameterized(), norm=norm))
    model = torch.load(_saved(model), weights_only=False)
    x = torch.randn(1, 3, 4, 4)
    expected = model(x)
    twin = copy.deepcopy(model)
    twin.reparameterize(check=True)
    torch.testing.assert_close(twin(x), expected)
    assert twin.reparameterize.args == (twin,)
    assert model.fuse_features(1, 2) == 3
    folded = mmws.fold(model)
    assert folded.reparameterize.__func__ is Reparameterized.reparameterize


def _saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


class Remembering(nn.Module):
    """Keeps tensors of its last training step, as the mask heads of CondInst do."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.last = {}

    def forward(self, x):
        x = self.norm(self.conv(x))
        self.last['features'] = [x]
        return x.mean((2, 3))


def test_models_that_keep_tensors_of_a_training_step_are_copied():
    # Bug: "Only Tensors created explicitly by the user support the deepcopy protocol".
    model, x = Remembering(), torch.randn(2, 3, 8, 8)
    model(x).sum().backward()
    converted = mmws.convert(model, inplace=False)
    converted(x).sum().backward()
    assert mmws.check_conversion(converted, x)
    folded = mmws.fold(converted.eval())
    with torch.no_grad():
        torch.testing.assert_close(folded(x), converted(x))
    assert not folded.last['features'][0].requires_grad
    assert model.last['features'][0].requires_grad


@pytest.mark.parametrize(
    'weight_norm', [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm]
)
@pytest.mark.parametrize('inplace', [False, True])
def test_folding_pytorchs_own_weight_norm(weight_norm, inplace):
    # Bug: PyTorch refuses to copy the model, its weight norm stays, or the original loses it.
    torch.manual_seed(0)
    model = nn.Sequential(weight_norm(nn.Conv2d(3, 8, 3)), mmws.ConvWS2d(8, 4, 1))
    x = torch.randn(1, 3, 9, 9)
    expected = model(x)
    folded = mmws.fold(model, inplace=inplace)
    assert [type(m) for m in folded] == [nn.Conv2d, nn.Conv2d]
    assert set(folded.state_dict()) == {'0.weight', '0.bias', '1.weight', '1.bias'}
    torch.testing.assert_close(folded(x), expected)
    torch.testing.assert_close(model(x), expected)
    assert inplace or len(list(model[0].parameters())) == 3
