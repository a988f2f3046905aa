"""Which layers are converted together: flows on the way to a norm, and an independent check."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import mmws


class Flow(nn.Module):
    """Layers, a norm, and what ``forward`` does with them."""

    def __init__(self, forward, bias=True):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1, bias=bias), nn.Conv2d(4, 4, 1, bias=bias)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.ones(1))
        self.position = nn.Parameter(torch.zeros(1, 4, 8, 8))
        self.flow = forward

    def forward(self, x):
        return self.flow(self, x)


def converted(flow, **options):
    """Return the names of the layers that a conversion changes, after the independent check."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    model = mmws.convert(Flow(flow, **options), inputs=x)
    names = {change.name for change in model.conversion_report.convs}
    if names:
        check = mmws.check_conversion(model, x)
        assert check, check
    return names


def hand_written_norm(y):
    centered = y - y.mean((1, 2, 3), keepdim=True)
    return centered / (centered.square().mean((1, 2, 3), keepdim=True) + 1e-6).sqrt()


def in_slices(m, x):
    out = torch.zeros(2, 8, 8, 8)
    out[:, :4] = m.a(x)
    out[:, 4:].add_(m.b(x))
    return hand_written_norm(out)


def half_in_slices(m, x):
    out = torch.zeros(2, 8, 8, 8)
    out[:, :4] = m.a(x)
    out[:, 4:] = x
    return hand_written_norm(out)


FLOWS = {
    'channel shuffle': (lambda m, x: m.norm(F.channel_shuffle(m.a(x), 2)), {'a'}),
    'indexing': (lambda m, x: m.norm(m.a(x)[:, [3, 1, 0, 2]]), {'a'}),
    'maximum': (lambda m, x: m.norm(m.a(x).amax(3, keepdim=True)), {'a'}),
    'mask': (lambda m, x: m.norm(m.a(x) * (x > 0)), {'a'}),
    'masked': (lambda m, x: m.norm(m.a(x).masked_fill(x > 0, 0)), {'a'}),
    'filled with another number': (lambda m, x: m.norm(m.a(x).masked_fill(x > 0, 1)), set()),
    'learned scalar': (lambda m, x: m.norm(m.a(x) * m.scale), {'a'}),
    'learned offset that starts at 0': (lambda m, x: m.norm(m.a(x) + m.position), set()),
    'gate of something else': (lambda m, x: m.norm(m.a(x) * x.sigmoid()), {'a'}),
    'gate of its own': (lambda m, x: m.norm((y := m.a(x)) * y.sigmoid()), set()),
    'grid': (
        lambda m, x: m.norm(F.grid_sample(m.a(x), x[:, :2].movedim(1, 3), align_corners=True)),
        {'a'},
    ),
    'depthwise and pointwise': (lambda m, x: m.norm(m.b(m.depthwise(x))), {'b'}),
    'a norm written by hand': (lambda m, x: hand_written_norm(m.a(x)), {'a'}),
    'F.normalize': (lambda m, x: F.normalize(m.a(x), dim=1), {'a'}),
    'response normalization': (
        lambda m, x: m.norm((y := m.a(x)) * (y.norm(dim=(2, 3), keepdim=True))), {'a'}
    ),
    'softmax of directions': (
        lambda m, x: F.softmax(F.normalize(m.a(x), dim=1) * 5, 1), {'a'}
    ),
    'linear layer': (lambda m, x: F.layer_norm(m.linear(x.mT.flatten(2).mT), (4,)), {'linear'}),
    'sum with what no layer made': (lambda m, x: m.norm(m.a(x) + x), set()),
    'concatenation with what no layer made': (
        lambda m, x: hand_written_norm(torch.cat((m.a(x), x), 1)), set()
    ),
    'sum of which one part is needed elsewhere': (
        lambda m, x: (m.norm((y := m.a(x)) + m.b(x)), y.exp()), set()
    ),
    'residual of itself': (lambda m, x: m.norm((y := m.a(x)) + m.b(y)), set()),
    'slices of a tensor of zeros': (in_slices, {'a', 'b'}),
    'slices beside something else': (half_in_slices, set()),
    'in place on a view': (lambda m, x: m.norm((y := m.a(x)).add_(0 * y[:, :1])), {'a'}),
    'part of it in place': (lambda m, x: (y := m.a(x), y[:, :2].sigmoid_(), m.norm(y))[2], set()),
    'position of a maximum': (lambda m, x: m.norm(m.a(x)) + m.b(x).argmax(1, True), {'a'}),
    'rounded': (lambda m, x: m.norm(m.a(x).long().float()), set()),
    'real and imaginary': (
        lambda m, x: m.norm(torch.view_as_real(torch.fft.fft2(m.a(x))).sum(-1)), {'a'}
    ),
}  # fmt: skip


@pytest.mark.parametrize(('flow', 'expected'), FLOWS.values(), ids=FLOWS)
def test_flows(flow, expected):
    # Bug: half of a sum is converted, or a layer is missed on its way to a norm.
    assert converted(flow) == expected


def test_layers_without_offset_hand_on_the_scale():
    # Bug: of a depthwise and a pointwise convolution before one norm, the first is missed.
    flow = lambda m, x: m.norm(m.b(m.depthwise(x)))  # noqa: E731
    assert converted(flow, bias=False) == {'b', 'depthwise'}
    # Taking in the first must not cost the second, where both cannot be had.
    flow = lambda m, x: m.norm(m.a(x) + m.b(m.depthwise(x)))  # noqa: E731
    assert converted(flow, bias=False) == {'a', 'b'}


def test_operations_that_stop_a_layer_are_named():
    # Bug: a user cannot find out which operation keeps a layer plain.
    model = mmws.convert(Flow(lambda m, x: m.norm(torch.sinc(m.a(x)))))
    reasons = {left.name: left.reason for left in model.conversion_report.left}
    assert 'stopped at aten::sinc, which is in no table of rules' in reasons['a']
    model = mmws.convert(Flow(lambda m, x: m.norm(m.a(x).sigmoid())))
    reasons = {left.name: left.reason for left in model.conversion_report.left}
    assert reasons['a'] == 'feeds no normalization, stopped at aten::sigmoid'


def test_functions_that_normalize_are_named():
    model = mmws.convert(Flow(lambda m, x: F.layer_norm(m.a(x), x.shape[2:])))
    assert 'aten::native_layer_norm' in ' '.join(model.conversion_report.notes)


class DoubledByHook(nn.Module):
    def __init__(self, hook):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.conv.register_forward_hook(hook)

    def forward(self, x):
        return self.norm(self.conv(x))


@pytest.mark.parametrize(
    ('hook', 'expected'),
    [
        (lambda m, args, out: out * 2, 1),
        (lambda m, args, out: out + args[0], 0),
        (lambda m, args, out: out.sigmoid(), 0),
    ],
)
def test_hooks_that_change_an_output_are_part_of_the_model(hook, expected):
    # Bug: the hook is switched off while the model is traced, and its layer is taken for safe.
    model = mmws.convert(DoubledByHook(hook))
    assert len(model.conversion_report.convs) == expected


class Frozen(nn.Module):
    """The frozen batch normalization of DETR and others."""

    def __init__(self, channels, functional=False, clamps=False):
        super().__init__()
        for name in ('weight', 'bias', 'running_mean', 'running_var'):
            self.register_buffer(name, torch.rand(channels) + 0.5)
        self.functional, self.clamps = functional, clamps

    def forward(self, x):
        if self.functional:  # as detectron2's, without gradients
            out = F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False
            )
        else:
            scale = self.weight * (self.running_var + 1e-5).rsqrt()
            shift = self.bias - self.running_mean * scale
            out = x * scale[:, None, None] + shift[:, None, None]
        return out.clamp(0) if self.clamps else out


@pytest.mark.parametrize('functional', [False, True])
@pytest.mark.parametrize(('clamps', 'norm'), [(False, 'GN'), (False, None), (True, 'GN')])
def test_frozen_batch_norms_of_other_libraries(functional, clamps, norm):
    # Bug: the frozen norm stays, and nothing normalizes the standardized convolution before it.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), Frozen(32, functional, clamps))
    mmws.convert(model, norm=norm)
    replaced = not clamps and norm == 'GN'
    assert isinstance(model[0], mmws.ConvWS2d) is replaced
    assert isinstance(model[1], nn.GroupNorm) is replaced
    if replaced:
        assert mmws.check_conversion(model)
        assert model[1].weight.requires_grad


class FunctionalBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3)
        self.register_buffer('mean', torch.zeros(32))
        self.register_buffer('var', torch.ones(32))

    def forward(self, x):
        return F.batch_norm(self.conv(x), self.mean, self.var, training=self.training)


def test_batch_norm_called_as_a_function():
    # Bug: it is taken for a fixed map although it normalizes in training, or goes unsaid.
    model = mmws.convert(FunctionalBatchNorm())
    assert type(model.conv) is mmws.ConvWS2d
    assert 'batch_norm, called as a function' in ' '.join(model.conversion_report.notes)
    assert not model.mean.any()
    assert model.training


class WithSkip(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + x


class Renamed(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 1


@pytest.mark.parametrize(('norm', 'converts'), [(WithSkip, False), (Renamed, True)])
def test_batch_norm_with_a_forward_of_its_own(norm, converts):
    # Bug: what the subclass does beside normalizing is not looked at.
    model = mmws.convert(nn.Sequential(nn.Conv2d(3, 32, 3), norm(32)))
    assert bool(model.conversion_report.convs) is converts
    reasons = {left.name: left.reason for left in model.conversion_report.left}
    assert reasons['1'] == 'batch normalization with a forward of its own'


# ---- The independent check itself


def test_the_check_finds_a_layer_whose_scale_matters():
    # Bug: the check passes whatever it is given.
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 1))
    mmws.convert(model)
    assert mmws.check_conversion(model)
    del model.conversion_report
    model[2] = mmws.ConvWS2d(8, 2, 1)
    check = mmws.check_conversion(model)
    assert not check
    assert list(check.culprits) == ['2']
    assert '2: ' in str(check)
    assert check.layers == 2


def test_the_check_looks_at_all_conversions():
    # Bug: only the last conversion counted, so that layers of the first one were not checked, and
    # after a conversion of norms alone the model was said to have no converted layer.
    def blocks():
        return nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)) for _ in 'ab'))

    norms_last = mmws.convert(mmws.convert(blocks(), norm=None), conv=None)
    assert mmws.check_conversion(norms_last).layers == 2
    one_by_one = mmws.convert(mmws.convert(blocks(), only='0'), only='1')
    assert mmws.check_conversion(one_by_one).layers == 2
    with_part = blocks()
    mmws.convert(with_part[0])
    mmws.convert(mmws.convert(with_part, conv=None), only='1', inplace=False)
    assert mmws.check_conversion(mmws.convert(with_part)).layers == 2
    # Layers that the user built, in a model of which the norms alone were converted.
    built = nn.Sequential(mmws.ConvWS2d(3, 3, 3), nn.BatchNorm2d(3))
    assert mmws.check_conversion(mmws.convert(built, conv=None)).layers == 1


def test_the_check_sees_behind_gains_of_zero():
    # Bug: an initial value of 0 hides what training will show.
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = mmws.ConvWS2d(4, 4, 1), nn.GroupNorm(2, 4)
            self.gain = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + self.gain * y

    assert list(mmws.check_conversion(Residual()).culprits) == ['conv']


class Video(nn.Module):
    """Takes videos, which no form of input that is known fits, and has a head for the training."""

    def __init__(self, tail):
        super().__init__()
        self.detector = nn.Sequential(mmws.ConvWS2d(3, 8, 3), nn.GroupNorm(4, 8))
        self.heads = nn.ModuleList([nn.Sequential(mmws.ConvWS2d(8, 8, 1), *tail)])

    def forward(self, x):
        if x.dim() != 5:
            raise AttributeError('no frames')
        return self.detector(x[:, 0])


@pytest.mark.parametrize('inputs', [None, torch.rand(1, 2, 3, 8, 8)])
def test_the_check_runs_parts_that_the_model_does_not_reach(inputs):
    # Bugs: a model of videos cannot be checked; layers that no run reached count as checked.
    check = mmws.check_conversion(Video([nn.GroupNorm(4, 8)]), inputs)
    assert check
    unchecked = () if inputs is None else ('heads.0.0',)
    assert (check.layers, check.unchecked) == (2 - len(unchecked), unchecked)
    assert ('not checked: 1 layers (heads.0.0)' in str(check)) == bool(unchecked)


def test_a_part_whose_output_has_the_scale_says_nothing():
    # Bug: PIDNet's heads fail the check, whose norm follows the block that the convolution is in.
    check = mmws.check_conversion(Video([nn.GroupNorm(4, 8), mmws.ConvWS2d(8, 8, 1)]))
    assert check
    assert (check.layers, check.unchecked) == (2, ('heads.0.2',))


class Tokens(nn.Module):
    """Returns the nearest entry of a codebook of equal entries, which rounding decides."""

    def __init__(self):
        super().__init__()
        self.conv = mmws.ConvWS2d(3, 8, 1)
        self.register_buffer('book', torch.ones(64, 8))

    def forward(self, x):
        y = torch.nn.functional.normalize(self.conv(x).flatten(2).transpose(1, 2), dim=2)
        return torch.cdist(y, self.book[None]).argmin(2)


def test_the_check_does_not_compare_decisions():
    # Bug: a tie counts as an output that changes with the scale.
    with pytest.raises(ValueError, match='no finite floating-point numbers'):
        mmws.check_conversion(Tokens(), torch.rand(1, 3, 8, 8))


class Peaks(nn.Sequential):
    """Keeps the largest value of each window, of which some have equal ones."""

    def __init__(self, *tail):
        super().__init__(mmws.ConvWS2d(3, 8, 1), nn.GroupNorm(4, 8), *tail)

    def forward(self, x):
        y = super().forward(x)
        y = torch.cat([y, y[..., :1] * 3 / 3, y[..., :1]], dim=3)  # equal but for rounding
        return y * (y == torch.nn.functional.max_pool2d(y, (1, 3), 1, (0, 1)))


def test_ties_that_rounding_decides_are_no_failure():
    # Bug: SOLO, which keeps the largest of neighbouring scores, fails the check.
    x = torch.rand(1, 3, 4, 400)
    assert mmws.check_conversion(Peaks(), x)
    check = mmws.check_conversion(Peaks(mmws.ConvWS2d(8, 8, 1)), x)
    assert list(check.culprits) == ['2']


def test_the_check_names_a_model_none_of_whose_layers_runs():
    class Unused(nn.Sequential):
        def forward(self, x):
            return x

    with pytest.raises(ValueError, match='no run reaches a converted layer'):
        mmws.check_conversion(Unused(mmws.ConvWS2d(3, 8, 1)), torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize('rest', [lambda y: y[:0], lambda y: y * float('nan')])
def test_outputs_without_a_number_are_no_evidence(rest):
    # Bug: a detector that finds nothing passes, and so does a model that returns NaN.
    class Nothing(nn.Sequential):
        def forward(self, x):
            return rest(super().forward(x))

    with pytest.raises(ValueError, match='no finite floating-point numbers'):
        mmws.check_conversion(Nothing(mmws.ConvWS2d(3, 8, 1)), torch.rand(1, 3, 8, 8))


def test_outputs_that_lose_their_numbers_fail_the_check():
    # Bug: the model "cannot be run" where the scale makes NaN or leaves nothing.
    class Root(nn.Sequential):
        def forward(self, x):
            size = super().forward(x).abs().mean()
            return (2 * size.detach().clamp(max=self.size) - size).sqrt()

    model = Root(mmws.ConvWS2d(3, 8, 1))
    x = torch.rand(1, 3, 8, 8)
    model.size = 1e9
    model.size = float(model(x).square())
    assert list(mmws.check_conversion(model, x).culprits) == ['0']


def test_the_check_compares_what_an_untrained_detector_of_torchvision_finds():
    # Bug: none of its scores reaches its threshold, and so nothing was compared.
    detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    model = mmws.convert(detector(weights=None, weights_backbone=None, num_classes=3))
    check = mmws.check_conversion(model)
    assert check, check
    assert check.compared > 100
    assert not check.unchecked
    assert model.roi_heads.score_thresh > 0


def test_a_head_that_was_removed_is_not_checked():
    # Bug: AttributeError for the name of a layer in the report.
    class WithHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8))
            self.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.GroupNorm(4, 8))

        def forward(self, x):
            y = self.body(x)
            return y if self.head is None else self.head(y)

    model = mmws.convert(WithHead())
    assert mmws.check_conversion(model).layers == 2
    model.head = None
    assert mmws.check_conversion(model).layers == 1


@pytest.mark.parametrize('factor', [1, 3, 0, -2, float('inf'), float('nan')])
def test_the_factor_is_a_power_of_two(factor):
    model = nn.Sequential(mmws.ConvWS2d(3, 8, 1), nn.GroupNorm(4, 8))
    with pytest.raises(ValueError, match='factor must be a power of two'):
        mmws.check_conversion(model, factor=factor)
    assert mmws.check_conversion(model, factor=0.5)


def test_the_check_needs_something_to_check():
    with pytest.raises(ValueError, match='convert it first'):
        mmws.check_conversion(nn.Conv2d(3, 3, 1))
    model = nn.Sequential(mmws.ConvWS2d(3, 3, 1))
    with pytest.raises(ValueError, match='cannot be run'):
        mmws.check_conversion(model, torch.zeros(1, 5, 4, 4))
