"""A folded model is PyTorch's own, and computes what the model of mmws computed."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import mmws
from mmws import layers
from mmws.surgery.folding import needing_mmws, own_arguments
from tests.helpers.layer_cases import CASES, Case, every_layer

RECURRENT = [
    (layers.WNRNN, nn.RNN, dict(num_layers=2)),
    (layers.WNLSTM, nn.LSTM, dict(bidirectional=True, proj_size=2)),
    (layers.WNGRU, nn.GRU, dict(bias=False)),
    (layers.WNRNNCell, nn.RNNCell, {}),
    (layers.WNLSTMCell, nn.LSTMCell, {}),
    (layers.WNGRUCell, nn.GRUCell, {}),
]


def disturb(module: nn.Module) -> None:
    """Give every parameter and buffer of floats a value that no initializer gives it."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))


@every_layer
def test_every_layer_becomes_its_plain_layer(case: Case):
    # Bug: a kind (transposed, grouped, deformable) or a gain beside the weight is folded wrongly.
    layer = case.make(dtype=torch.float64)
    disturb(layer)
    folded = mmws.fold(layer)
    plain = case.make_plain(dtype=torch.float64)
    assert type(folded) is case.plain
    assert vars(folded).keys() <= vars(plain).keys()
    assert {k: v.shape for k, v in folded.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
    plain.load_state_dict(folded.state_dict())
    inputs = case.inputs(torch.float64)
    expected = layer(*inputs)
    torch.testing.assert_close(folded(*inputs), expected)
    torch.testing.assert_close(plain(*inputs), expected)


@every_layer
def test_a_trained_layer_folds_in_evaluation_too(case: Case):
    # Bug: each filter of WN is a multiple of the stored one, and passes for a fused norm's.
    layer = case.make(dtype=torch.float64).eval()
    disturb(layer)
    inputs = case.inputs(torch.float64)
    torch.testing.assert_close(mmws.fold(layer)(*inputs), layer(*inputs))


@pytest.mark.parametrize(('weighted', 'plain', 'options'), RECURRENT, ids=lambda x: str(x))
def test_recurrent_layers_become_plain(weighted, plain, options):
    # Bug: the plain layer goes on computing with the list of directions it was built with.
    torch.manual_seed(0)
    layer = weighted(3, 4, **options)
    disturb(layer)
    folded = mmws.fold(layer)
    assert type(folded) is plain
    fresh = plain(3, 4, **options)
    fresh.load_state_dict(folded.state_dict())
    x = torch.randn(5, 3) if 'Cell' in plain.__name__ else torch.randn(5, 2, 3)
    for result in (folded(x), fresh(x)):
        torch.testing.assert_close(result, layer(x))


@every_layer
def test_dtype_memory_format_and_flags_stay(case: Case):
    # Bug: folding a frozen, half-precision or channels-last layer thaws, widens or re-lays it.
    layer = case.make(dtype=torch.bfloat16).eval()
    layer.weight.requires_grad_(False)
    if layer.weight.dim() == 4:
        layer = layer.to(memory_format=torch.channels_last)
    stride = layer.weight.stride()
    folded = mmws.fold(layer)
    assert folded.weight.dtype == torch.bfloat16
    assert folded.weight.stride() == stride
    assert not folded.weight.requires_grad
    assert type(folded.weight) is nn.Parameter
    assert not folded.training
    assert [p.requires_grad for p in mmws.fold(case.make()).parameters()] == [
        p.requires_grad for p in case.make_plain().parameters()
    ]


class Net(nn.Module):
    """Layers that are used twice, share a weight, or are referred to outside of the module tree."""

    def __init__(self):
        super().__init__()
        self.first = layers.ConvWS2d(3, 48, 3)
        self.norm = layers.GroupNorm(48)
        self.twin = layers.ConvWS2d(48, 48, 1)
        self.tied = layers.ConvWS2d(48, 48, 1)
        self.plain = nn.Conv2d(48, 48, 1)
        self.tied.weight = self.plain.weight = self.twin.weight
        self.again = self.twin
        self.loose = [self.first]

    def forward(self, x):
        x = self.norm(self.loose[0](x)).relu()
        return self.plain(self.again(self.twin(x))) + self.tied(x)


def test_sharing_references_and_hooks_stay():
    # Bug: a shared weight is folded twice, or in place under the plain layer that shares it;
    # a reference outside of the module tree still computes with the old layer.
    torch.manual_seed(0)
    model = Net().eval()
    calls = []
    model.first.register_forward_hook(lambda module, args, out: calls.append(type(module)))
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        before = copy.deepcopy(model.state_dict())
        folded = mmws.fold(model)
        torch.testing.assert_close(folded(x), expected)
    assert calls == [layers.ConvWS2d, nn.Conv2d]
    assert folded.again is folded.twin
    assert folded.loose[0] is folded.first
    assert folded.tied.weight is folded.twin.weight
    assert folded.plain.weight is not folded.twin.weight
    assert type(folded.norm) is nn.GroupNorm
    assert folded.norm.num_groups == 24
    # Bug: folding a copy folds the model.
    assert type(model.first) is layers.ConvWS2d
    torch.testing.assert_close(dict(model.state_dict()), dict(before))
    assert mmws.fold(model, inplace=True) is model
    assert not needing_mmws(model)


def test_a_folded_model_is_pickled_without_mmws():
    # Bug: the file of a whole folded model needs mmws to be opened.
    model = nn.Sequential(*[case.make() for case in CASES[:4]], layers.GroupNorm(6))
    assert b'mmws' in pickle.dumps(model)
    for file in (pickle.dumps(mmws.fold(model)), pickle.dumps(mmws.fold(model.eval()))):
        assert b'mmws' not in file


def test_bcn_stays_and_is_named(caplog):
    # Bug: Batch-Channel Normalization turns into the group normalization it is derived from.
    model = nn.Sequential(layers.ConvWS2d(3, 8, 1), layers.BCN(8)).eval()
    x = torch.randn(2, 3, 4, 4)
    folded = mmws.fold(model)
    (told,) = (record for record in caplog.records if 'mmws.fold' in record.getMessage())
    assert '1 (BCN)' in told.getMessage()
    assert type(folded[0]) is nn.Conv2d
    torch.testing.assert_close(folded(x), model(x))


def test_a_forward_of_ones_own_is_refused_before_anything_changes():
    # Bug: what a subclass does beside convolving is lost without a word.
    class Clamped(layers.ConvWS2d):
        def forward(self, x):
            return super().forward(x).clamp(0)

    model = nn.Sequential(layers.ConvWS2d(3, 8, 1), Clamped(8, 8, 1))
    with pytest.raises(ValueError, match=r'cannot fold 1: .*Clamped has a forward of its own'):
        mmws.fold(model, inplace=True)
    assert type(model[0]) is layers.ConvWS2d


def pruned(layer, name):
    return prune.l1_unstructured(layer, name, 0.3)


def parametrized(layer, name):
    return parametrize.register_parametrization(layer, name, nn.Identity())


@pytest.mark.parametrize('inplace', [True, False])
@pytest.mark.parametrize(
    ('layer', 'make', 'name', 'told'),
    [
        (layers.ConvWS2d(3, 4, 3), pruned, 'weight', r'pruning .*prune\.remove\(layer,'),
        (layers.ConvWN2d(3, 4, 3), pruned, 'weight_g', 'pruning makes its weight_g'),
        (layers.WNLSTM(3, 4), pruned, 'weight_hh_l0', 'pruning makes its weight_hh_l0'),
        (layers.WNGRUCell(3, 4), parametrized, 'weight_ih', r'remove_parametrizations\(layer'),
        (layers.ConvAWS2d(3, 4, 3), parametrized, 'weight', 'a parametrization makes its weight'),
        (layers.ConvWS2d(3, 4, 3), parametrized, 'bias', 'a parametrization makes its bias'),
        (layers.GroupNorm(4), parametrized, 'weight', 'a parametrization makes its weight'),
        (layers.ConvWS2d(3, 4, 3), lambda layer, name: nn.utils.spectral_norm(layer), 'weight',
         'something else'),
    ],
    ids=lambda case: None if not isinstance(case, nn.Module) else type(case).__name__,
)  # fmt: skip
def test_what_pruning_or_a_parametrization_makes_is_refused(layer, make, name, told, inplace):
    # Bug: "attribute 'weight' already exists", after other layers had been folded in place.
    model = nn.ModuleDict({'before': layers.ConvWS2d(3, 4, 3), 'layer': copy.deepcopy(layer)})
    make(model['layer'], name)
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match=rf'cannot fold layer \(.*{told}') as error:
        mmws.fold(model, inplace=inplace)
    assert '\n' not in str(error.value)
    assert [type(module) for module in model.modules()] == kinds


def test_a_pruned_bias_folds():
    # Bug: refusing more than what the fold replaces.
    layer, x = pruned(layers.ConvWS2d(3, 4, 3), 'bias'), torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(mmws.fold(layer)(x), layer(x))


def test_arguments_of_the_weight_function_are_told_from_those_of_the_layer():
    # Bug: `eps` is dropped from the plain GN's config, or left in the plain convolution's.
    assert {'eps', 'variance', 'eps_inside'} <= own_arguments(layers.ConvWS2d)
    assert {'gamma', 'eps', 'gain_init'} <= own_arguments(layers.ScaledConvWS2d)
    assert own_arguments(layers.GroupNorm).isdisjoint({'eps', 'num_groups', 'affine'})
