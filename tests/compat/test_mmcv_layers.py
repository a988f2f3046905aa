"""The layers that stand for MMCV's where it is missing, compared with MMCV's own."""

import importlib.util
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn.bricks.conv2d_adaptive_padding import Conv2dAdaptivePadding
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack

from mmws.compat import mmcv_layers


def load_without_mmcv() -> ModuleType:
    spec = importlib.util.find_spec(mmcv_layers.__name__)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmws.compat.stack.is_installed', lambda *packages: False)
        spec.loader.exec_module(module)
    return module


ALONE = load_without_mmcv()


@pytest.mark.parametrize(
    'cls', [Conv2dAdaptivePadding, DeformConv2dPack, ModulatedDeformConv2dPack]
)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_layer_equals_mmcvs(cls, data):
    # Bug: a model computes something else, or its checkpoint does not load, without MMCV.
    ours = getattr(ALONE, cls.__name__)
    assert ours is not cls
    groups = data.draw(st.sampled_from([1, 2]))
    options = dict(
        kernel_size=data.draw(st.sampled_from([1, 3, (3, 5)])),
        stride=data.draw(st.integers(1, 3)),
        padding=data.draw(st.integers(0, 2)),
        dilation=data.draw(st.integers(1, 2)),
        groups=groups,
        bias=cls is not DeformConv2dPack and data.draw(st.booleans()),
    )
    if cls is not Conv2dAdaptivePadding:
        options['deform_groups'] = data.draw(st.sampled_from([1, 2]))
    torch.manual_seed(data.draw(st.integers(0, 100)))
    theirs, layer = cls(4, 6, **options), ours(4, 6, **options)
    if hasattr(theirs, 'conv_offset'):
        assert not layer.conv_offset.weight.any()
        torch.nn.init.normal_(theirs.conv_offset.weight, std=0.3)
    layer.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4, data.draw(st.integers(12, 16)), data.draw(st.integers(12, 16)))
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('cls', [DeformConv2dPack, ModulatedDeformConv2dPack])
def test_initial_weights_have_mmcvs_spread(cls):
    # Bug: training starts from weights of another size without MMCV.
    torch.manual_seed(0)
    theirs, ours = cls(32, 64, 3), getattr(ALONE, cls.__name__)(32, 64, 3)
    assert ours.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.05)
    assert ours.weight.abs().max().item() == pytest.approx(
        theirs.weight.abs().max().item(), rel=0.05
    )


def test_a_bias_of_dcn_is_refused():
    with pytest.raises(ValueError, match='has no bias'):
        ALONE.DeformConv2dPack(4, 4, 3, bias=True)
