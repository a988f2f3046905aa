import re
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner
from torch import nn

import mmws
from mmws.engine.batch_arithmetic import count_accumulation
from tests.helpers.toy_training import toy_config


def train(cfg):
    runner = Runner.from_cfg(cfg)
    count_accumulation(runner)
    runner.train()
    (log,) = Path(runner.log_dir).glob('*.log')
    return runner, log.read_text()


def test_accumulated_images_count_in_the_learning_rate_and_are_told(tmp_path):
    # Bug: 1 image x 16 accumulated steps trains at the rate of 1 image.
    cfg = toy_config(
        tmp_path, accumulate=4, length=8, images_per_step=2, val=False, log_level='INFO'
    )
    cfg.auto_scale_lr = dict(enable=True, base_batch_size=16)
    runner, log = train(cfg)
    assert runner.optim_wrapper.param_groups[0]['initial_lr'] == pytest.approx(0.01 * 8 / 16)
    assert '2 image(s) x 1 process(es) x 4 accumulated step(s) = 8 image(s) per update' in log
    assert 'learning rate 0.005, that of the config for 16 images x 0.5' in log
    assert '8 iterations = 2 updates' in log
    assert 'warm-up 8 iterations = 2 updates' in log
    assert runner.cfg.auto_scale_lr.base_batch_size == 16


@pytest.mark.parametrize(('norm', 'told'), [('GN', False), ('BN', True)])
def test_batch_normalization_is_told_that_steps_are_no_batch(tmp_path, norm, told):
    cfg = toy_config(tmp_path, accumulate=2, length=2, images_per_step=2, val=False)
    cfg.model.norm = norm
    _, log = train(cfg)
    assert bool(re.search('accumulated steps are not one step with more images', log)) is told


def net(norm):
    torch.manual_seed(0)
    norms = {'GN': lambda: nn.GroupNorm(4, 16), 'BN': lambda: nn.BatchNorm2d(16)}
    return nn.Sequential(
        mmws.ConvWS2d(3, 16, 3), norms[norm](), nn.ReLU(), mmws.ConvWS2d(16, 1, 3)
    ).double()


@pytest.mark.parametrize(('norm', 'equal'), [('GN', True), ('BN', False)])
def test_accumulation_equals_the_larger_batch_with_gn_and_ws_alone(norm, equal):
    one, other = net(norm), net(norm)
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    (one(images) ** 2).mean().backward()
    for image in images.split(1):
        ((other(image) ** 2).mean() / 4).backward()
    same = all(
        torch.allclose(a.grad, b.grad, rtol=1e-9, atol=1e-12)
        for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )
    assert same is equal
