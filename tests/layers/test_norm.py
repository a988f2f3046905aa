import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmcv.cnn import build_norm_layer
from torch import nn

from mmws.layers import GroupNorm, largest_group_count
from mmws.layers import norm as norm_module


@given(channels=st.integers(1, 4096), groups=st.integers(1, 64))
def test_group_count_is_the_largest_divisor_not_above_the_wanted(channels, groups):
    # Bug: a narrow or odd-width model stops at GroupNorm's num_groups assertion.
    used = largest_group_count(channels, groups)
    assert used <= groups
    assert channels % used == 0
    assert not [g for g in range(used + 1, groups + 1) if channels % g == 0]


def test_equals_torch_where_the_groups_divide():
    torch.manual_seed(0)
    ours, plain = GroupNorm(64), nn.GroupNorm(32, 64)
    x = torch.randn(2, 64, 5, 7)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(ours(x), plain(x))


@pytest.mark.parametrize('cfg', [{}, {'num_groups': 8}, {'requires_grad': False}])
def test_builds_as_mmcv_builds_norms(cfg):
    # Bug: the layer gets another name, and mmdet's checkpoints no longer fit.
    name, layer = build_norm_layer(dict(type='mmws.GN', **cfg), 48, postfix=1)
    assert name == 'gn1'
    assert layer.num_groups == cfg.get('num_groups', 24)
    assert layer.weight.requires_grad is cfg.get('requires_grad', True)


def test_another_group_count_is_told_once(caplog):
    for _ in range(3):
        GroupNorm(46)
        GroupNorm(64)
    (told,) = caplog.records
    assert '46 channels' in told.getMessage()
    assert '23 groups' in told.getMessage()
    assert told.levelno == logging.WARNING


@pytest.mark.parametrize(('channels', 'groups'), [(8, 0), (8, -1), (0, 32)])
def test_impossible_counts_are_refused_by_name(channels, groups):
    with pytest.raises(ValueError, match=r'mmws\.GN needs num_groups >= 1'):
        GroupNorm(channels, groups)


@pytest.mark.parametrize(('channels', 'per_group', 'groups'), [(64, 16, 4), (48, 32, 1), (6, 4, 1)])
def test_groups_by_their_channels(channels, per_group, groups):
    assert GroupNorm(channels, channels_per_group=per_group).num_groups == groups


def test_no_channels_a_group_are_refused():
    with pytest.raises(ValueError, match='at least 1, got 0'):
        GroupNorm(8, channels_per_group=0)


@pytest.mark.parametrize('batch', [1, 2])
def test_one_value_a_group_gives_the_offset_and_a_warning(batch, caplog):
    # PyTorch raises for one image, and gives the offset for two without a word.
    norm_module._tell_lone_values.cache_clear()
    norm = GroupNorm(4, 4)
    with torch.no_grad():
        norm.bias.normal_()
    out = norm(torch.randn(batch, 4, 1, 1))
    expected = norm.bias.view(1, 4, 1, 1).expand(batch, -1, -1, -1)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-4)
    norm(torch.randn(batch, 4, 2, 1))
    assert caplog.text.count('take fewer groups') == 1
