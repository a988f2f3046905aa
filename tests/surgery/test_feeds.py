"""Which convolution feeds a normalization: data flow, in models too small to be mistaken about."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.ops import ModulatedDeformConv2d
from torch import nn

from mmws.surgery.feeds import find_feeds


class Flow(nn.Module):
    """Two convolutions, a norm, and what ``forward`` does with them."""

    def __init__(self, forward, norm=None):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm = norm or nn.BatchNorm2d(4)
        self.flow = forward

    def forward(self, x):
        return self.flow(self, x)


def fed(model, inputs=None):
    """Return the names of the convolutions of ``model`` that feed a normalization."""
    feeds = find_feeds(model, inputs)
    return {
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.modules.conv._ConvNd) and feeds.why_not(m) is None
    }


FLOWS = {
    'straight': (lambda m, x: m.norm(m.a(x)), {'a'}),
    'through views': (lambda m, x: m.norm(m.a(x).flatten(2).reshape(1, 4, 8, -1)), {'a'}),
    'through padding, pooling and resizing': (
        lambda m, x: m.norm(F.interpolate(F.max_pool2d(F.pad(m.a(x), (1, 1)), 2), scale_factor=2)),
        {'a'},
    ),
    'through ReLU': (lambda m, x: m.norm(m.a(x).relu_()), {'a'}),
    'through a number': (lambda m, x: m.norm(2 * m.a(x) / 3), {'a'}),
    'a sum of convolutions': (lambda m, x: m.norm(m.a(x) + m.b(x)), {'a', 'b'}),
    'a concatenation': (lambda m, x: m.norm(torch.cat((m.a(x), m.b(x)), 2)), {'a', 'b'}),
    'in a norm and in another convolution': (lambda m, x: m.norm(y := m.a(x)) + m.b(y), set()),
    'two convolutions in a row': (lambda m, x: m.norm(m.b(m.a(x))), {'b'}),
    'through a function that is not homogeneous': (lambda m, x: m.norm(m.a(x).sigmoid()), set()),
    'added to something of another scale': (lambda m, x: m.norm(m.a(x) + x), set()),
    'times another convolution': (lambda m, x: m.norm(m.a(x) * m.b(x)), {'a', 'b'}),
    'times something that has no scale': (lambda m, x: m.norm(m.a(x) * x.sigmoid()), {'a'}),
    'in place, as a gate': (lambda m, x: m.norm(x.mul(m.a(x).sigmoid_())), set()),
    'returned as it is': (lambda m, x: (y := m.a(x), m.norm(y)), set()),
    'returned inside of a dict': (lambda m, x: {'y': (y := m.a(x)), 'z': [m.norm(y)]}, set()),
    'not used': (lambda m, x: (m.a(x), m.norm(m.b(x)))[1], {'b'}),
    'shape alone used': (lambda m, x: m.norm(y := m.a(x)) + torch.zeros_like(y), {'a'}),
    'several calls, one of them without a norm': (lambda m, x: m.norm(m.a(x)) + m.a(x), set()),
    'its weight taken by the model': (  # as in MMDetection's TOOD, which never calls the layer
        lambda m, x: m.norm(F.conv2d(m.b(x), 2 * m.a.weight)) + m.norm(m.a(x)), {'b'}
    ),
    'shape of its weight used': (lambda m, x: m.norm(m.a(x)) * len(m.a.weight), {'a'}),
    'a norm that is a function': (lambda m, x: F.layer_norm(m.a(x), x.shape[2:]), {'a'}),
    'instance norm as a function': (lambda m, x: F.instance_norm(m.a(x)), {'a'}),
}  # fmt: skip


@pytest.mark.parametrize(('flow', 'expected'), FLOWS.values(), ids=FLOWS)
def test_data_flow(flow, expected):
    # Bug: a prediction layer or a gate is standardized, or a convolution before a norm is missed.
    assert fed(Flow(flow)) == expected


@pytest.mark.parametrize(
    'norm',
    [nn.SyncBatchNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm(64)],
    ids=lambda norm: type(norm).__name__,
)
def test_every_kind_of_norm_counts(norm):
    assert fed(Flow(lambda m, x: m.norm(m.a(x)), norm)) == {'a'}


def test_pre_activation_residual_stream():
    # Bug: convolutions whose outputs are summed up before a later norm stay plain, unlike BiT's.
    def flow(m, x):
        stream = m.a(x)
        return m.norm(stream + m.b(m.norm(stream)))

    assert fed(Flow(flow)) == {'a', 'b'}


def test_norms_are_those_reached():
    model = Flow(lambda m, x: m.norm(m.a(x)))
    feeds = find_feeds(model)
    assert feeds.norms[model.a] == [model.norm]
    assert feeds.why_not(model.b) == 'not reached by the traced run (pass inputs that reach it)'
    assert feeds.stopped_by is None


def test_what_did_not_run_is_judged_by_structure():
    # Bug: branches of training alone, such as auxiliary heads, keep plain convolutions.
    model = Flow(lambda m, x: m.norm(m.a(x)))
    model.auxiliary = nn.Sequential(
        nn.Conv2d(9, 4, 1), nn.Identity(), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1)
    )
    model.block = nn.ModuleList([ConvModule(9, 4, 1, norm_cfg=dict(type='BN'))])
    model.other = nn.ModuleList([ConvModule(9, 4, 1)])
    model.norm_first = nn.ModuleList(
        [ConvModule(4, 4, 1, norm_cfg=dict(type='BN'), order=('norm', 'act', 'conv'))]
    )
    assert fed(model) == {'a', 'auxiliary.0', 'block.0.conv'}


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Flow(lambda m, x: m.norm(m.a(x)))
        self.second = Flow(lambda m, x: m.norm(m.b(x)))

    def forward(self, x):
        self.first(x)
        raise RuntimeError('needs\nmore')


def test_a_failing_run_tells_what_it_can():
    # Bug: models that take more than images are not converted at all.
    feeds = find_feeds(model := Failing())
    assert feeds.stopped_by == 'RuntimeError: needs more'
    assert {name for name, m in model.named_modules() if m in feeds.norms} == {
        'first.a',
        'second.b',
    }


@pytest.mark.parametrize(
    'inputs', [torch.zeros(1, 4, 5, 5), (torch.zeros(1, 4, 5, 5),), {'x': torch.zeros(1, 4, 5, 5)}]
)
def test_inputs_of_ones_own(inputs):
    assert fed(Flow(lambda m, x: m.norm(m.b(x))), inputs) == {'b'}


@pytest.mark.parametrize(
    ('conv', 'norm', 'size'), [(nn.Conv1d, nn.BatchNorm1d, 1), (nn.Conv3d, nn.BatchNorm3d, 5)]
)
def test_inputs_have_the_dimensions_of_the_first_convolution(conv, norm, size):
    assert fed(nn.Sequential(nn.Sequential(conv(7, 4, size)), norm(4))) == {'0.0'}


class Patches(nn.Module):
    """A model of gray patches of one size, of which it makes four channels first."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x):
        if x.shape[1:] != (1, 32, 32):
            raise ValueError('32 x 32 gray pixels are expected')
        return self.norm(self.conv(F.pixel_unshuffle(x, 2)))


def test_patches_of_one_size():
    # Bug: the model does not run, and its layers are judged by what the structure tells.
    feeds = find_feeds(model := Patches())
    assert feeds.stopped_by is None
    assert feeds.fed == {model.conv}


class PixelsOfBlocks(nn.Module):
    """A model without convolutions that takes images, as Vision Transformers of timm."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(3 * 8 * 8, 16, bias=False), nn.LayerNorm(16)

    def forward(self, x):
        if x.dim() != 4:
            raise ValueError('images are expected')
        return self.norm(self.embed(F.unfold(x, 8, stride=8).mT))


def test_images_without_a_convolution():
    # Bug: features and tokens alone are tried, since the first layer is a linear one.
    model = PixelsOfBlocks()
    feeds = find_feeds(model, candidates=[model.embed])
    assert feeds.stopped_by is None
    assert feeds.fed == {model.embed}


class Offsets(nn.Module):
    """MMDetection's DyHead calls MMCV's deformable convolution with offsets of a finer level."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = ModulatedDeformConv2d(4, 4, 1), nn.GroupNorm(2, 4)
        self.conv.forward = lambda x, offset, mask: x  # as with MMCV's compiled operator

    def forward(self, x):
        return self.norm(self.conv(x, x.new_zeros(1, 2, 99, 99), x.new_ones(1, 1, 99, 99)))


def test_offsets_of_another_size_than_the_output():
    # Bug: with MMCV's operator the model runs, and converted, with torchvision's, it stops.
    model = Offsets()
    assert find_feeds(model).why_not(model.conv) == 'is given more offsets than it has outputs'
