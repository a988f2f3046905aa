"""Weight Standardization and its relatives against the layers of MMCV and timm."""

import importlib
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn import ConvModule, build_conv_layer
from mmcv.cnn.bricks import conv_ws as mmcv_layers
from mmengine.registry import MODELS
from torch import nn

from mmws.layers import ConvAWS2d, ConvWS2d, GroupNorm, ScaledConvWS2d

GEOMETRY = st.fixed_dictionaries(
    {
        'kernel_size': st.sampled_from([1, 2, 3, (1, 3)]),
        'stride': st.integers(1, 3),
        'padding': st.integers(0, 2),
        'dilation': st.integers(1, 2),
        'groups': st.sampled_from([1, 2, 4]),
        'bias': st.booleans(),
    }
).filter(
    # The others divide by 0 for one element, and for two the gradient is nothing but rounding.
    lambda g: g['groups'] == 1 or g['kernel_size'] != 1
)


DTYPES = st.sampled_from([torch.float32, torch.float64])
LAYOUT = {
    'dtype': DTYPES,
    'memory_format': st.sampled_from([torch.contiguous_format, torch.channels_last]),
}


def assert_equal(ours, theirs, dtype, memory_format=torch.contiguous_format):
    """Outputs and gradients equal: as close to theirs in float64 as theirs of this dtype are."""
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 4, 8, 7, dtype=dtype)
    results = []
    for layer, layer_dtype in ((ours, dtype), (theirs, dtype), (theirs, torch.float64)):
        layer.to(dtype=layer_dtype, memory_format=memory_format)
        leaf = image.to(layer_dtype, memory_format=memory_format).detach().requires_grad_()
        out = layer(leaf)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
        results.append((out, *torch.autograd.grad(out, [leaf, *layer.parameters()], grad)))
    for got, rounded, exact in zip(*results):
        error = (rounded.double() - exact).abs().max().item()
        tolerance = 100 * torch.finfo(dtype).eps * (1 + exact.abs().max().item()) + 8 * error
        torch.testing.assert_close(got.double(), exact, rtol=0, atol=tolerance)


@settings(deadline=None, max_examples=60)
@given(geometry=GEOMETRY, dtype=DTYPES)
def test_equals_mmcv(geometry, dtype):
    torch.manual_seed(0)
    theirs = mmcv_layers.ConvWS2d(4, 8, **geometry)
    # Contiguous only: MMCV flattens with view, which a channels_last weight does not allow.
    assert_equal(ConvWS2d(4, 8, **geometry), theirs, dtype)


@settings(deadline=None, max_examples=40)
@given(geometry=GEOMETRY, affine=st.booleans(), dtype=DTYPES)
def test_equals_mmcv_affine(geometry, affine, dtype):
    torch.manual_seed(0)
    theirs = mmcv_layers.ConvAWS2d(4, 8, **geometry)
    if affine:
        nn.init.normal_(theirs.weight_gamma, mean=1.0)
        nn.init.normal_(theirs.weight_beta)
    assert_equal(ConvAWS2d(4, 8, **geometry), theirs, dtype)


@settings(deadline=None, max_examples=40)
@given(geometry=GEOMETRY, **LAYOUT)
def test_equals_timm(geometry, dtype, memory_format):
    timm = pytest.importorskip('timm.layers')
    torch.manual_seed(0)
    ours = ConvWS2d(4, 8, **geometry, eps=1e-6, variance='biased', eps_inside=True)
    assert_equal(ours, timm.StdConv2d(4, 8, **geometry), dtype, memory_format)


@settings(deadline=None, max_examples=40)
@given(geometry=GEOMETRY, gamma=st.floats(0.5, 2.0), **LAYOUT)
def test_scaled_equals_timm(geometry, gamma, dtype, memory_format):
    timm = pytest.importorskip('timm.layers')
    torch.manual_seed(0)
    theirs = timm.ScaledStdConv2d(4, 8, **geometry, gamma=gamma, gain_init=0.7)
    nn.init.normal_(theirs.gain)
    ours = ScaledConvWS2d(4, 8, **geometry, gamma=gamma)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert_equal(ours, theirs, dtype, memory_format)


class TestConfigs:
    @pytest.mark.parametrize(
        'name',
        ['ConvWS', 'ConvWS2d', 'ConvAWS', 'ScaledWS', 'ConvWN', 'DCNWS', 'DCNv2WN', 'deconvWS'],
    )
    def test_built_by_name(self, name):
        layer = build_conv_layer({'type': f'mmws.{name}'}, 4, 8, 3, stride=2, padding=1, bias=False)
        assert layer(torch.randn(1, 4, 8, 8)).shape[1] == 8

    @pytest.mark.parametrize('dims', [1, 3])
    @pytest.mark.parametrize('name', ['ConvWS', 'ConvTransposeWS', 'ConvWN', 'ConvTransposeWN'])
    def test_other_dimensions_by_name(self, name, dims):
        layer = build_conv_layer({'type': f'mmws.{name}{dims}d'}, 4, 8, 3)
        assert layer(torch.randn(1, 4, *[5] * dims)).shape[1] == 8

    @pytest.mark.parametrize('name', ['ConvWS', 'ConvWN', 'DCNWS', 'DCNv2WS', 'DCNv2WN'])
    def test_in_a_conv_module(self, name):
        module = ConvModule(
            4, 8, 3, conv_cfg={'type': f'mmws.{name}'}, norm_cfg={'type': 'mmws.GN'}
        )
        module.init_weights()
        module(torch.randn(2, 4, 6, 6)).sum().backward()

    def test_options_reach_the_layer(self):
        layer = build_conv_layer({'type': 'mmws.ConvWS', 'eps': 0.1, 'variance': 'biased'}, 4, 8, 3)
        assert "eps=0.1, variance='biased'" in repr(layer)

    @pytest.mark.parametrize('options', [{'eps': -1.0}, {'variance': 'population'}])
    def test_wrong_options_are_refused_at_once(self, options):
        with pytest.raises(ValueError, match='got'):
            ConvWS2d(4, 8, 3, **options)


class TestAffineLoading:
    """DetectoRS loads ImageNet weights of plain convolutions and its own of ConvAWS."""

    def test_a_plain_state_dict_leaves_the_function_as_it_was(self):
        plain, layer = nn.Conv2d(4, 8, 3), ConvAWS2d(4, 8, 3)
        layer.load_state_dict(plain.state_dict())
        image = torch.randn(1, 4, 6, 6)
        torch.testing.assert_close(layer(image), plain(image), rtol=1e-4, atol=1e-4)
        theirs = mmcv_layers.ConvAWS2d(4, 8, 3)
        theirs.load_state_dict(plain.state_dict())
        torch.testing.assert_close(layer.state_dict(), theirs.state_dict())

    def test_its_own_state_dict_is_kept(self):
        theirs, layer = mmcv_layers.ConvAWS2d(4, 8, 3), ConvAWS2d(4, 8, 3)
        nn.init.normal_(theirs.weight_beta)
        layer.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(layer.state_dict(), theirs.state_dict(), rtol=0, atol=0)

    def test_missing_weights_are_reported(self):
        with pytest.raises(RuntimeError, match='weight_gamma'):
            ConvAWS2d(4, 8, 3).load_state_dict({'bias': torch.zeros(8)})

    def test_half_an_affine_map_is_reported(self):
        state = ConvAWS2d(4, 8, 3).state_dict()
        del state['weight_beta']
        with pytest.raises(RuntimeError, match='weight_beta'):
            ConvAWS2d(4, 8, 3).load_state_dict(state)


def test_a_plain_state_dict_leaves_the_gain_alone():
    layer = ScaledConvWS2d(4, 8, 3, gain_init=0.5)
    layer.load_state_dict(nn.Conv2d(4, 8, 3).state_dict())
    assert (layer.gain == 0.5).all()
    layer.reset_parameters()
    assert (layer.gain == 0.5).all()


def block(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(ConvWS2d(3, 8, 3, padding=1), norm, nn.ReLU(), ConvWS2d(8, 4, 3))


def test_an_image_is_independent_of_the_rest_of_its_batch():
    # Why GN and WS train at one image per GPU, and BN does not.
    image, other = torch.randn(2, 1, 3, 8, 8)
    independent, dependent = block(GroupNorm(8, 4)), block(nn.BatchNorm2d(8))
    alone, together = torch.cat((image, image)), torch.cat((image, other))
    torch.testing.assert_close(independent(alone)[0], independent(together)[0])
    difference = (dependent(alone)[0] - dependent(together)[0]).abs().max()
    assert difference > 0.1


def test_filters_stay_standardized_while_training():
    model = block(GroupNorm(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(10):
        for layer in (model[0], model[3]):
            std, mean = torch.std_mean(layer.effective_weight().flatten(1), 1)
            torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
            torch.testing.assert_close(std, torch.ones_like(std), atol=1e-3, rtol=0)
        optimizer.zero_grad()
        F.mse_loss(model(torch.randn(2, 3, 8, 8)), torch.randn(2, 4, 6, 6)).backward()
        optimizer.step()


def test_the_drop_in_replaces_mmcv(monkeypatch):
    monkeypatch.setattr(MODELS, '_module_dict', MODELS.module_dict.copy())
    monkeypatch.delitem(sys.modules, 'mmws.drop_in', raising=False)
    importlib.import_module('mmws.drop_in')

    assert type(build_conv_layer({'type': 'ConvWS'}, 4, 8, 3)) is ConvWS2d
    assert type(build_conv_layer({'type': 'ConvAWS'}, 4, 8, 3)) is ConvAWS2d


def test_scaled_ws_follows_a_weight_of_another_shape():
    """A pruned layer: the fan-in is that of the weight at hand."""
    layer, x = ScaledConvWS2d(4, 6, 1, bias=False), torch.randn(1, 2, 3, 3)
    layer(torch.randn(1, 4, 3, 3))
    fewer = layer.weight.data[:, :2].clone()
    layer.weight.data = fewer
    other = ScaledConvWS2d(2, 6, 1, bias=False)
    other.load_state_dict({'weight': fewer}, strict=False)
    torch.testing.assert_close(layer(x), other(x))
