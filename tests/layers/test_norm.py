import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmcv.cnn import build_norm_layer
from torch import nn

from mmws.layers import GroupNorm, largest_group_count


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
