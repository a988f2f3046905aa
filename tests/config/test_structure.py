import pytest
from mmengine.config import Config

from mmws.config.structure import check_structure

SOUND = dict(
    model=dict(type='A'),
    train_dataloader=dict(batch_size=1, num_workers=0, dataset=dict(type='B')),
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1), clip_grad=None),
    train_cfg=dict(by_epoch=True, max_epochs=2),
    param_scheduler=[dict(type='C', end=5)],
    default_hooks=dict(checkpoint=dict(type='D', interval=-1)),
    custom_hooks=[dict(type='E')],
    val_evaluator=[dict(type='F')],
    load_from=None,
    resume=False,
)


def test_a_sound_config_passes():
    check_structure(Config(SOUND))
    check_structure({})


@pytest.mark.parametrize(
    ('key', 'value', 'wanted'),
    [
        ('train_dataloader', [1], 'a dict'),
        ('train_dataloader.dataset', 'x', 'a dict with a type'),
        ('train_dataloader.batch_size', 0, 'at least 1'),
        ('train_dataloader.batch_size', True, 'at least 1'),
        ('train_dataloader.num_workers', -1, 'a whole number'),
        ('optim_wrapper.optimizer.lr', float('nan'), 'a finite number'),
        ('optim_wrapper.optimizer.lr', 'fast', 'a finite number'),
        ('optim_wrapper.accumulative_counts', 0, 'at least 1'),
        ('model', 5, 'a dict'),
        ('visualizer', {}, 'a dict with a type'),
        ('custom_hooks', 'x', 'a list of dicts'),
        ('custom_hooks', [1], 'a list of dicts'),
        ('param_scheduler', 'x', 'or a list of these'),
        ('train_cfg.max_epochs', 2.5, 'at least 1'),
        ('default_hooks.checkpoint.interval', 0, 'at least 1, or -1'),
        ('load_from', 3, 'a text'),
        ('resume', 'yes', 'True or False'),
        ('val_evaluator', {}, 'a dict with a type'),
    ],
)
def test_the_setting_of_another_kind_is_named(key, value, wanted):
    # Bug: a traceback out of MMEngine, "'list' object has no attribute 'pop'".
    cfg = Config(SOUND)
    node = cfg
    *parents, last = key.split('.')
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(ValueError, match=f'^{key} must be .*{wanted}'):
        check_structure(cfg)


def test_a_number_that_fits_nowhere_is_named_and_not_printed():
    cfg = Config(dict(param_scheduler=[dict(type='A', end=10**400)]))
    with pytest.raises(ValueError, match=r'^param_scheduler\.0\.end in the config is too large'):
        check_structure(cfg)
    with pytest.raises(ValueError, match='batch_size') as error:
        check_structure(dict(train_dataloader=dict(batch_size=-(10**400))))
    assert len(str(error.value)) < 200
