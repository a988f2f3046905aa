"""`mmws.convert` layer by layer: what becomes what, and what a layer keeps."""

import copy
import pickle

import pytest
import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import wrappers
from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding
from mmcv.ops import (
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
    SyncBatchNorm,
)
from mmengine.model import BaseModule
from torch import nn
from torch.nn.utils import prune
from torchvision.ops import DeformConv2d, FrozenBatchNorm2d

import mmws
from mmws import layers
from mmws.layers import ConvWS2d, GroupNorm


def block(conv: nn.Module, norm: nn.Module) -> nn.Module:
    return nn.Sequential(conv, norm, nn.ReLU())


def conv_bn(channels: int = 8) -> nn.Module:
    return block(nn.Conv2d(3, channels, 3, bias=False), nn.BatchNorm2d(channels))


class OffsetConv(nn.Module):
    """A deformable convolution that is given its offsets, and a norm."""

    def __init__(self, conv):
        super().__init__()
        self.offset, self.conv, self.bn = nn.Conv2d(4, 27, 3, padding=1), conv, nn.BatchNorm2d(6)

    def forward(self, x):
        offset = self.offset(x)
        return self.bn(self.conv(x, offset[:, :18], offset[:, 18:].sigmoid()))


CONVS = [
    (nn.Conv1d(4, 6, 3), layers.ConvWS1d, (2, 4, 9)),
    (nn.Conv2d(4, 6, 3, groups=2), layers.ConvWS2d, (2, 4, 9, 9)),
    (nn.Conv3d(4, 6, 3), layers.ConvWS3d, (2, 4, 5, 5, 5)),
    (nn.ConvTranspose1d(4, 6, 3), layers.ConvTransposeWS1d, (2, 4, 9)),
    (nn.ConvTranspose2d(4, 6, 3), layers.ConvTransposeWS2d, (2, 4, 5, 5)),
    (nn.ConvTranspose3d(4, 6, 3), layers.ConvTransposeWS3d, (2, 4, 5, 5, 5)),
    (wrappers.Conv2d(4, 6, 3), layers.ConvWS2d, (2, 4, 9, 9)),
    (wrappers.ConvTranspose2d(4, 6, 3), layers.ConvTransposeWS2d, (2, 4, 5, 5)),
    (Conv2dAdaptivePadding(4, 6, 3, 2), layers.ConvSamePaddingWS2d, (2, 4, 9, 8)),
    (DeformConv2dPack(4, 6, 3), layers.DeformConvPackWS2d, (2, 4, 9, 9)),
    (ModulatedDeformConv2dPack(4, 6, 3), layers.ModulatedDeformConvPackWS2d, (2, 4, 9, 9)),
]


@pytest.mark.parametrize(('conv', 'form', 'shape'), CONVS, ids=lambda v: type(v).__name__)
def test_every_kind_of_convolution_gets_its_form(conv, form, shape):
    # Bug: a kind of convolution is passed over, or its new form lacks an attribute of the old.
    norm = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](6)
    model = block(copy.deepcopy(conv), norm)
    before = copy.deepcopy(model[0]), torch.randn(shape)
    x = before[1]
    mmws.convert(model, inputs=x)
    assert type(model[0]) is form
    assert type(model[1]) is GroupNorm
    # The plain layer with these filters, and its own stride, padding and groups.
    plain = before[0]
    with torch.no_grad():
        plain.weight.copy_(model[0].effective_weight())
    torch.testing.assert_close(model[0](x), plain(x))
    model(x).square().sum().backward()
    assert model[0].weight.grad.abs().sum() > 0
    repr(model)


@pytest.mark.parametrize(
    'conv', [DeformConv2d(4, 6, 3, padding=1), ModulatedDeformConv2d(4, 6, 3, padding=1)]
)
def test_deformable_convolutions_that_are_given_offsets(conv):
    # Bug: MMCV's plain class (DyHead's) lacks what torchvision's layer has, and fails when printed.
    model = OffsetConv(conv)
    mmws.convert(model, inputs=torch.randn(1, 4, 6, 6))
    assert type(model.conv) is layers.DeformConvWS2d
    assert type(model.offset) is nn.Conv2d
    model(torch.randn(1, 4, 6, 6)).sum().backward()
    repr(model)


@pytest.mark.parametrize(
    ('conv', 'form'),
    [
        ('WS', ConvWS2d),
        ('WN', layers.ConvWN2d),
        ('AWS', layers.ConvAWS2d),
        ('ScaledWS', layers.ScaledConvWS2d),
        ('mmws.ConvWS', ConvWS2d),
        (dict(type='mmws.ConvWS', eps=1e-3), ConvWS2d),
        (None, nn.Conv2d),
    ],
)
@pytest.mark.parametrize(
    ('norm', 'kind', 'groups'),
    [
        ('GN', GroupNorm, 32),
        ('LN', GroupNorm, 1),
        ('IN', GroupNorm, 64),
        ('BCN', layers.BCN, 32),
        (dict(type='mmws.GN', num_groups=16), GroupNorm, 16),
        ('IN2d', nn.InstanceNorm2d, None),
        (None, nn.BatchNorm2d, None),
    ],
)
def test_names_and_configs(conv, form, norm, kind, groups):
    model = mmws.convert(conv_bn(64), conv, norm)
    assert type(model[0]) is form
    assert type(model[1]) is kind
    assert getattr(model[1], 'num_groups', None) == groups
    if isinstance(conv, dict):
        assert model[0].eps == 1e-3
    model(torch.randn(2, 3, 8, 8)).sum().backward()


@pytest.mark.parametrize(
    'options',
    [
        dict(conv='WSS'),
        dict(conv='mmws.GN'),
        dict(conv=dict(type='WS', epsilon=1)),
        dict(norm='GNN'),
        dict(norm=dict(num_groups=4)),
        dict(norm=dict(type='GN', groups=4)),
        dict(inputs=torch.zeros(1, 5, 8, 8)),
    ],
)
def test_mistakes_are_named_and_change_nothing(options):
    # Bug: a traceback from inside a constructor, with half of the model changed.
    model = conv_bn()
    with pytest.raises(ValueError, match=r'conv=|norm=|inputs'):
        mmws.convert(model, **options)
    assert [type(m) for m in model] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


@pytest.mark.parametrize('conv', ['WN', 'AWS'])
def test_weight_functions_with_gains_keep_the_filters(conv):
    # Bug: the gain starts anywhere, and pretrained filters are lost.
    model = conv_bn()
    x = torch.randn(1, 3, 8, 8)
    before = model[0](x)
    torch.testing.assert_close(mmws.convert(model, conv, None)[0](x), before)


class Deformed(nn.Module):
    """A deformable convolution with offsets from another one."""

    def __init__(self):
        super().__init__()
        self.offset, self.conv = nn.Conv2d(4, 18, 3, padding=1), DeformConv2d(4, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x):
        return self.norm(self.conv(x, self.offset(x)))


@pytest.mark.parametrize('conv', ['WN', 'AWS'])
@pytest.mark.parametrize(
    ('model', 'shape'),
    [
        (lambda: nn.Sequential(nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6)), (2, 4, 9)),
        (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), (2, 4, 9, 8)),
        (lambda: nn.Sequential(nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6)), (2, 4, 4, 3, 5)),
        (
            lambda: nn.Sequential(nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6)),
            (2, 4, 9),
        ),
        (
            lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6)),
            (2, 4, 5, 6),
        ),
        (lambda: nn.Sequential(nn.ConvTranspose3d(4, 6, 2), nn.BatchNorm3d(6)), (2, 4, 3, 2, 3)),
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), (5, 4)),
        (Deformed, (2, 4, 7, 6)),
    ],
    ids=['conv1d', 'conv2d', 'conv3d', 'deconv1d', 'deconv2d', 'deconv3d', 'linear', 'deformable'],
)
def test_kept_weights_compute_what_the_plain_ones_did(model, shape, conv):
    # Bug: a kind of layer gets the gains of other filters, as of a transposed weight's rows.
    torch.manual_seed(0)
    model, x = model().double().eval(), torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))  # filters with a mean, and norms with gains
    before = model(x)
    mmws.convert(model, conv, None, inputs=x)
    assert len(model.conversion_report.convs) == 1
    torch.testing.assert_close(model(x), before)
    torch.testing.assert_close(mmws.fold(model)(x), before)
    model.train()(x).square().sum().backward()


def test_layers_stay_the_objects_they_are():
    # Bug: an optimizer, a hook or a list outside holds layers that are no longer in the model.
    model = conv_bn().double()
    conv, norm = model[0], model[1].eval()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(8.0))
    conv.weight.requires_grad_(False)
    parameters, calls = list(model.parameters()), []
    norm.register_forward_hook(lambda *args: calls.append(args))
    mmws.convert(model)
    assert (model[0], model[1]) == (conv, norm)
    assert all(a is b for a, b in zip(model.parameters(), parameters))
    assert [p.requires_grad for p in parameters] == [False, True, True]
    assert conv.training
    assert not norm.training
    assert not calls  # the traced run is none of the owner's business
    assert model(torch.randn(1, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64
    assert len(calls) == 1
    assert set(model.state_dict()) == {'0.weight', '1.weight', '1.bias'}


def test_a_copy_leaves_the_model_alone():
    model = conv_bn()
    converted = mmws.convert(model, inplace=False)
    assert type(model[0]) is nn.Conv2d
    assert type(converted[0]) is ConvWS2d
    assert type(converted[1]) is GroupNorm


def test_report_travels_with_the_model_and_not_with_its_weights():
    model = mmws.convert(nn.Sequential(conv_bn(), nn.Conv2d(8, 2, 1)))
    assert not [key for key in model.state_dict() if 'report' in key]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        report = twin.conversion_report
        assert [c.name for c in report.convs] == ['0.0']
        assert [n.name for n in report.norms] == ['0.1']
        assert [(left.name, left.reason) for left in report.left] == [
            ('1', 'feeds no normalization')
        ]
        assert report.parameters_before == report.parameters_after == 3 * 8 * 9 + 16 + 18
        assert '0.0' in str(report)


def test_tracing_leaves_no_trace():
    # Bug: running statistics, buffers, modes or the random state differ after converting.
    model = nn.Sequential(nn.Dropout(), conv_bn())
    model[1][1].eval()
    state = copy.deepcopy(model.state_dict())
    rng = torch.get_rng_state()
    mmws.convert(model, norm=None)
    torch.testing.assert_close(dict(model.state_dict()), dict(state))
    assert torch.equal(torch.get_rng_state(), rng)
    assert [m.training for m in model.modules()] == [True, True, True, True, False, True]
    assert not model[1][0]._forward_hooks


class Remembering(nn.Module):
    """A model that makes something for the first size it sees, in attributes and a buffer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32)
        self.window, self.positions = 128, None
        self.register_buffer('table', torch.zeros(1))

    def forward(self, x):
        if x.shape[-1] < self.window:
            self.window = x.shape[-1]
            self.positions = torch.arange(self.window)
            self.table = torch.ones(self.window)
            self.seen = True
        if self.window < 128:
            raise ValueError('the image is too small')
        return self.norm(self.conv(x))


def test_what_a_model_remembers_of_an_image_comes_back():
    # Bug: the first image that is tried leaves its size, and the model takes no larger one again,
    # as the windows of Swin Transformers in transformers did.
    model = mmws.convert(Remembering())
    assert type(model.conv) is mmws.ConvWS2d
    assert not [note for note in model.conversion_report.notes if 'stopped early' in note]
    assert (model.window, model.positions, hasattr(model, 'seen')) == (128, None, False)
    assert model.table.shape == (1,)
    assert mmws.check_conversion(model)
    assert model(torch.zeros(1, 3, 200, 200)).shape == (1, 32, 200, 200)


def test_frozen_batch_norm_becomes_trainable_where_its_convolution_is():
    # Bug: gains and offsets of GN stay frozen, as BN had them for want of a batch.
    for frozen_conv in (False, True):
        model = block(nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8))
        model[0].weight.requires_grad_(not frozen_conv)
        mmws.convert(model)
        assert type(model[1]) is GroupNorm
        assert model[1].weight.requires_grad is not frozen_conv
        assert dict(model.named_parameters())['1.weight'] is model[1].weight
        assert ('frozen' in str(model.conversion_report)) is frozen_conv


def test_mmcvs_synchronized_batch_norm(monkeypatch):
    # Bug: MMCV's own SyncBN, no subclass of PyTorch's, stays.
    monkeypatch.setattr('torch.distributed.get_world_size', lambda group=None: 1)
    norm = SyncBatchNorm(8)
    norm.forward = lambda x: x
    model = block(nn.Conv2d(3, 8, 3), norm)
    del norm.forward
    mmws.convert(model)
    assert [type(m) for m in model] == [ConvWS2d, GroupNorm, nn.ReLU]


def test_gains_of_groups_and_of_channels_are_not_mixed_up():
    # Bug: where there are as many groups as channels, one parameter serves as both.
    model = conv_bn(8)
    gain = model[1].weight
    mmws.convert(model, norm='BCN')
    assert model[1].bn_weight is gain
    assert model[1].weight is not gain
    assert len(list(model[1].parameters())) == 4


def test_frozen_statistics_of_other_filters_are_told():
    model = BaseModule()
    model.conv, model.bn, model.norm_eval = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), True
    model.forward = lambda x: model.bn(model.conv(x))
    mmws.convert(model, norm=None)
    assert 'norm_eval keeps statistics' in str(model.conversion_report)


def test_lazy_layers_are_named():
    with pytest.raises(ValueError, match='lazy'):
        mmws.convert(nn.Sequential(nn.LazyConv2d(8, 3), nn.BatchNorm2d(8)))


class Subclass(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class OwnInit(nn.Conv2d):
    def __init__(self, channels):
        super().__init__(channels, channels, 3)


def test_layers_with_a_pruned_tensor_are_left_and_told():
    # Bug: "attribute 'bias' already exists" or "attribute 'weight' already exists".
    model = nn.Sequential(conv_bn(), nn.Sequential(nn.Conv2d(8, 3, 3), nn.BatchNorm2d(3)))
    prune.l1_unstructured(model[1][0], 'bias', 0.5)
    prune.l1_unstructured(model[0][1], 'weight', 0.5)
    mmws.convert(model)
    kinds = [type(layer) for part in model for layer in list(part)[:2]]
    assert kinds == [ConvWS2d, nn.BatchNorm2d, nn.Conv2d, GroupNorm]
    assert {left.name: left.reason for left in model.conversion_report.left} == {
        '0.1': 'its weight or its bias is made by something else',
        '1.0': 'its bias is made by something else',
    }
    assert model(torch.randn(2, 3, 9, 9)).isfinite().all()


@pytest.mark.parametrize(
    'conv',
    [
        Subclass(3, 8, 3),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
        nn.utils.spectral_norm(nn.Conv2d(3, 8, 3)),
        nn.Conv2d(8, 8, 1, groups=8),
        ConvWS2d(3, 8, 3),
    ],
)
def test_convolutions_that_cannot_be_changed_are_left_and_told(conv):
    # Bug: behaviour of a subclass is lost without a word; a filter of one element becomes 0.
    kind = type(conv)
    model = mmws.convert(block(conv, nn.BatchNorm2d(8)))
    assert type(model[0]) is kind
    assert [left.name for left in model.conversion_report.left] == ['0']


def test_a_subclass_that_only_constructs_differently_is_changed():
    assert type(mmws.convert(block(OwnInit(8), nn.BatchNorm2d(8)))[0]) is ConvWS2d


def test_shared_layers_stay_shared():
    # Bug: RTMDet's levels, which share convolutions and not norms, drift apart.
    first, second = (ConvModule(4, 4, 3, norm_cfg=dict(type='BN')) for _ in range(2))
    second.conv = first.conv
    model = nn.Sequential(first, second)
    mmws.convert(model, 'WN', inputs=torch.randn(1, 4, 9, 9))
    assert first.conv is second.conv
    assert first.gn is not second.gn
    assert len(list(model.parameters())) == 2 + 4


def test_weights_shared_by_layers_share_their_gains():
    first, second = (nn.Conv2d(4, 4, 3, bias=False) for _ in range(2))
    second.weight = first.weight
    model = nn.Sequential(first, nn.BatchNorm2d(4), second, nn.BatchNorm2d(4))
    mmws.convert(model, 'WN')
    assert first.weight is second.weight
    assert first.weight_g is second.weight_g
    # Bug: a shared buffer was a plain attribute of the second layer, missing in the state dict.
    tied = nn.Sequential(*(conv_bn(3) for _ in range(2)))
    tied[1][0].weight = tied[0][0].weight
    state = mmws.convert(tied, 'AWS').state_dict()
    names = ('weight_gamma', 'weight_beta')
    assert {f'{i}.0.{name}' for i in (0, 1) for name in names} <= state.keys()
    plain = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    plain[2].weight = plain[0].weight
    mmws.convert(plain)
    assert type(plain[0]) is nn.Conv2d
    assert 'shares its weight' in str(plain.conversion_report)


class TiedTranspose(nn.Module):
    """An encoder and a decoder with one weight."""

    def __init__(self, channels, features, groups):
        super().__init__()
        self.a = nn.Conv2d(channels * groups, features, 3, groups=groups)
        self.b = nn.ConvTranspose2d(features, channels * groups, 3, groups=groups)
        self.c = nn.Conv2d(channels * groups, features, 3, groups=groups)
        self.b.weight = self.c.weight = self.a.weight
        norms = [nn.BatchNorm2d(features), nn.BatchNorm2d(channels * groups)]
        self.norms = nn.ModuleList([*norms, nn.BatchNorm2d(features)])

    def forward(self, x):
        for layer, norm in zip((self.a, self.b, self.c), self.norms):
            x = norm(layer(x))
        return x


@pytest.mark.parametrize('conv', ['AWS', 'WN'])
@pytest.mark.parametrize('channels', [(8, 8, 1), (3, 8, 1), (4, 8, 2)], ids=str)
def test_a_weight_shared_with_a_transposed_convolution_has_other_filters(conv, channels):
    # Bug: the transposed convolution shared the gains of the filters of the other one: it computed
    # something else, or failed in the forward pass.
    torch.manual_seed(0)
    model = TiedTranspose(*channels)
    x = torch.randn(2, channels[0] * channels[2], 8, 8)
    expected = model(x)
    mmws.convert(model, conv, norm=None, inputs=x)
    assert model.b.weight is model.a.weight
    gain = model.a.beside_weight[0]
    assert getattr(model.a, gain) is getattr(model.c, gain) is not getattr(model.b, gain)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mmws.fold(model)(x), expected, rtol=1e-4, atol=1e-4)


def test_conv_modules_follow():
    # Bug: MMCV's block goes on to look for `bn`, or folds running statistics that are gone.
    model = ConvModule(3, 64, 3, norm_cfg=dict(type='BN'), efficient_conv_bn_eval=True).eval()
    mmws.convert(model)
    assert type(model.conv) is ConvWS2d
    assert model.norm is model.gn
    assert [name for name, _ in model.named_children()] == ['conv', 'gn', 'activate']
    twin = ConvModule(3, 64, 3, conv_cfg=model.conv_cfg, norm_cfg=model.norm_cfg).eval()
    twin.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(twin(x), model(x))


class NamesAKind(nn.Module):
    """A block of a user, which keeps the kind of its norm, and names the norm alike."""

    def __init__(self):
        super().__init__()
        self.norm, self.norm1_name = 'bn', 'bn1'
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.bn(self.conv(x))
        return getattr(self, self.norm1_name)(self.conv1(x))


def test_norms_are_renamed_where_an_attribute_holds_their_name_alone():
    # Bug: any attribute of the same text counted, and the forward pass then missed `self.bn`.
    model = mmws.convert(NamesAKind())
    assert [name for name, _ in model.named_children()] == ['conv', 'bn', 'conv1', 'gn1']
    assert (model.norm, model.norm1_name) == ('bn', 'gn1')
    assert model(torch.randn(1, 3, 9, 9)).isfinite().all()


class Initialized(BaseModule):
    def __init__(self):
        super().__init__(
            init_cfg=[
                dict(type='Normal', std=0.01, layer='Conv2d', override=dict(name='bn', std=5)),
                dict(type='Constant', val=3, layer=['_BatchNorm']),
            ]
        )
        self.conv, self.norm_name, self.bn = nn.Conv2d(3, 8, 3), 'bn', nn.BatchNorm2d(8)

    def forward(self, x):
        return getattr(self, self.norm_name)(self.conv(x))


def test_init_cfg_reaches_the_layers_it_reached():
    # Bug: `init_weights()` passes over the new layers, or looks for a norm under its old name.
    model = Initialized()
    model.init_cfg[0].pop('override')
    mmws.convert(model)
    model.init_weights()
    assert model.conv.weight.std() < 0.02
    assert (model.gn.weight == 3).all()


def test_overrides_of_init_cfg_follow_the_new_name():
    model = mmws.convert(Initialized())
    assert model.init_cfg[0]['override']['name'] == 'gn'
