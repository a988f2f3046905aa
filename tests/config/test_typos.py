import logging

import pytest
from mmengine.config import Config

from mmws.config.typos import warn_about_typos


@pytest.fixture(scope='module')
def cfg():
    return Config(
        {
            'model': {'type': 'MaskRCNN', 'backbone': {'type': 'ResNet', 'norm_cfg': {}}},
            'train_dataloader': {'batch_size': 2, 'dataset': {'type': 'CocoDataset'}},
            'train_cfg': {'type': 'EpochBasedTrainLoop', 'max_epochs': 24},
            'param_scheduler': [{'type': 'LinearLR', 'end': 500}],
            'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.02}},
            'load_from': None,
        }
    )


# A misspelt option trains for days with the base's value.
@pytest.mark.parametrize(
    ('key', 'meant'),
    [
        ('optim_wrapper.optimizer.lrr', 'optim_wrapper.optimizer.lr'),
        ('optim_wrapper.optimizer.Lr', 'optim_wrapper.optimizer.lr'),
        ('optm_wrapper.optimizer.lr', 'optim_wrapper.optimizer.lr'),
        ('train_dataloader.batchsize', 'train_dataloader.batch_size'),
        ('param_scheduler.0.ennd', 'param_scheduler.0.end'),
        # Right name, wrong level: above, below, outside the list.
        ('optim_wrapper.lr', 'optim_wrapper.optimizer.lr'),
        ('lr', 'optim_wrapper.optimizer.lr'),
        ('train_dataloader.dataset.batch_size', 'train_dataloader.batch_size'),
        ('param_scheduler.end', 'param_scheduler.0.end'),
    ],
)
def test_typo_is_named(cfg, key, meant):
    (warning,) = warn_about_typos(cfg, {key: 1})
    assert warning == (
        f'cfg_options: the config has no key {key}; did you mean {meant}? (it is set nevertheless)'
    )


@pytest.mark.parametrize(
    'key',
    [
        'optim_wrapper.optimizer.lr',
        'param_scheduler.0.end',
        'load_from',
        # New on purpose.
        'optim_wrapper.clip_grad.max_norm',
        'train_cfg.max_iters',
        'train_dataloader.dataset.indices',
        'model.backbone.dcn.type',
        'randomness.seed',
        # MMEngine refuses an index out of range by itself.
        'param_scheduler.7.end',
        # Into a value: MMEngine's matter as well.
        'load_from.x',
    ],
)
def test_right_and_new_keys_pass(cfg, key):
    assert warn_about_typos(cfg, {key: 1}) == []


def test_one_warning_for_each_key_and_config_untouched(cfg):
    before = cfg.to_dict()
    options = {'lrr.x': 1, 'train_dataloader.batchsize': 1, 'optim_wrapper.lr': 0.1}
    assert len(warn_about_typos(cfg, options)) == 2
    assert cfg.to_dict() == before


def test_warning_is_logged(cfg, monkeypatch):
    logged = []
    monkeypatch.setattr(
        'mmws.config.typos.print_log',
        lambda text, logger, level: logged.append((text, level)),
    )
    (warning,) = warn_about_typos(cfg, {'optim_wrapper.lr': 0.1})
    assert logged == [(warning, logging.WARNING)]
