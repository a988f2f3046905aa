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
        ('train_cfg.val_interval', float('inf'), 'at least 1'),
        ('default_hooks.checkpoint.interval', 0, 'at least 1, or -1'),
        ('load_from', 3, 'a text'),
        ('resume', 'yes', 'True or False'),
        ('val_evaluator', {}, 'a dict with a type'),
        ('val_evaluator', dict(type='M', ann_file=0.5), r'\.ann_file must be a path'),
        ('val_evaluator', [dict(type='M', backend_args='x')], r'\.0\.backend_args must be a dict'),
        ('test_evaluator', dict(metrics=[dict(type='M', ann_file=[])]), r'\.metrics\.0\.ann_file'),
        ('train_dataloader.dataset.data_root', 5, 'a path'),
        (
            'val_dataloader',
            dict(dataset=dict(type='R', dataset=dict(type='B', metainfo='x'))),
            r'\.dataset\.dataset\.metainfo must be a dict',
        ),
        (
            'test_dataloader',
            dict(dataset=dict(type='C', datasets=[dict(type='B', backend_args=3)])),
            r'\.dataset\.datasets\.0\.backend_args must be a dict',
        ),
        ('val_evaluator', dict(metrics=5), 'a dict with a type, or a list'),
        ('val_evaluator', dict(type='Evaluator', metrics=None), 'a dict with a type, or a list'),
        ('env_cfg', dict(mp_cfg=[1]), r'\.mp_cfg must be a dict'),
        ('env_cfg', dict(mp_cfg=dict(mp_start_method={})), r'\.mp_start_method must be a text'),
        ('default_hooks.logger', 7, 'a dict with a type'),
        ('default_hooks.logger', {}, 'a dict with a type'),
        ('log_processor', dict(window_size=0), r'\.window_size must be .*at least 1'),
        ('log_processor', dict(num_digits='x'), r'\.num_digits must be a whole number'),
        ('default_hooks.visualization', dict(type='V', interval=0), r'\.interval must be .*or -1'),
        ('param_scheduler', [dict(type='C', gamma='x')], r'\.0\.gamma must be a finite'),
        ('param_scheduler', [dict(type='C', gamma=10**400)], r'\.0\.gamma'),
        ('param_scheduler', dict(type='C', eta_min=[1]), r'\.eta_min must be a finite'),
        ('param_scheduler', dict(a=[dict(type='C', gamma='x')]), r'\.a\.0\.gamma must be'),
        ('param_scheduler', dict(a=[1]), 'a dict with a type'),
        ('param_scheduler', {}, 'a dict with a type'),
        ('default_hooks.checkpoint.filename_tmpl', 'step.pth', 'a text with one {}'),
        ('default_hooks.checkpoint.filename_tmpl', '{}_{}.pth', 'a text with one {}'),
        ('default_hooks.checkpoint.filename_tmpl', '{[0]}.pth', 'a text with one {}'),
        ('optim_wrapper.clip_grad', {}, 'max_norm'),
        ('optim_wrapper.clip_grad', dict(norm_type=2), 'max_norm'),
        ('optim_wrapper.clip_grad', dict(max_norm=0), 'max_norm'),
        ('optim_wrapper.clip_grad', dict(max_norm='x'), 'max_norm'),
        ('optim_wrapper.clip_grad', dict(max_norm=1, norm_type='x'), 'max_norm'),
        ('optim_wrapper.clip_grad', dict(max_norm=1, max_nrom=2), 'max_norm'),
        ('optim_wrapper.clip_grad', dict(type='value', max_norm=1), 'max_norm'),
        ('optim_wrapper.clip_grad', dict(type='other', max_norm=1), 'max_norm'),
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
    with pytest.raises(ValueError, match=f'^{key}.*{wanted}'):
        check_structure(cfg)


@pytest.mark.parametrize(
    'clip_grad',
    [
        None,
        dict(max_norm=35, norm_type=2),
        dict(max_norm=float('inf')),
        dict(max_norm=0.1, norm_type=float('inf'), error_if_nonfinite=True),
        dict(max_norm=1, norm_type='inf'),
        dict(type='value', clip_value=1),
    ],
)
def test_what_clips_gradients_passes(clip_grad):
    check_structure(dict(optim_wrapper=dict(clip_grad=clip_grad)))


@pytest.mark.parametrize(
    'settings',
    [
        dict(val_evaluator=dict(metrics=[dict(type='CocoMetric')])),
        dict(param_scheduler=dict(generator=[dict(type='A')], discriminator=dict(type='B'))),
        dict(custom_hooks=[dict(type='OfTheUser', interval=0.5)]),
    ],
)
def test_the_other_forms_that_mmengine_takes_pass(settings):
    check_structure(settings)


def test_a_length_that_was_divided_passes():
    # Bug: configs of V3Det, whose val_interval is 57300.0, were refused.
    check_structure(dict(train_cfg=dict(max_iters=4584000, val_interval=4584000 / 80)))


def test_a_default_hook_that_is_left_out_passes():
    check_structure(dict(default_hooks=dict(logger=None, visualization=dict(type='V'))))


def test_a_number_that_fits_nowhere_is_named_and_not_printed():
    cfg = Config(dict(param_scheduler=[dict(type='A', end=10**400)]))
    with pytest.raises(ValueError, match=r'^param_scheduler\.0\.end in the config is too large'):
        check_structure(cfg)
    with pytest.raises(ValueError, match='batch_size') as error:
        check_structure(dict(train_dataloader=dict(batch_size=-(10**400))))
    assert len(str(error.value)) < 200
