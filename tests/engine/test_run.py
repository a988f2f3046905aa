from pathlib import Path

import pytest
import torch
from mmengine.registry import DATASETS, MODELS

from mmws.compat import CheckpointError
from mmws.config import load_config
from mmws.engine import evaluate, prepare, train
from mmws.engine.run import ConfigError
from tests.helpers.toy_training import ToyImages, toy_config


@DATASETS.register_module()
class ImagesWithoutMetainfo(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return ToyImages()[index]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config without data, so that `prepare` has only its options to judge."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'some.py'
    path.write_text(
        "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02))\n"
        'auto_scale_lr = dict(enable=False, base_batch_size=16)\n'
    )
    return path


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'config .*nowhere\.py does not exist'):
        load_config(tmp_path / 'nowhere.py')


def test_a_broken_config_is_named_in_one_line(tmp_path):
    path = tmp_path / 'broken.py'
    path.write_text('model = dict(\n')
    with pytest.raises(ValueError, match=r'broken\.py cannot be read: SyntaxError') as caught:
        load_config(path)
    assert '\n' not in str(caught.value)


def test_a_config_of_an_installed_package_loads():
    cfg = load_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', {'model.neck.num_outs': 4})
    assert (cfg.model.type, cfg.model.neck.num_outs) == ('RetinaNet', 4)


@pytest.mark.parametrize(
    ('given', 'expected'), [(None, 'work_dirs/some'), ('elsewhere', 'elsewhere')]
)
def test_work_dir_falls_back_to_the_name_of_the_config(config, given, expected):
    assert prepare(config, work_dir=given).work_dir == expected


BACKBONE = "dict(init_cfg=dict(type='Pretrained', checkpoint='gone.pth'))"


def test_missing_pretrained_weights_are_named_before_anything_is_built(config):
    # Bug: a traceback of MMEngine's, after the data were read.
    text = config.read_text()
    config.write_text(f'{text}model = dict(backbone={BACKBONE})')
    with pytest.raises(FileNotFoundError, match=r'checkpoint gone\.pth does not exist'):
        prepare(config)
    prepare(config, checkpoint=save(config.with_name('epoch_1.pth')))  # where they are not read
    config.write_text(f"{text}model = dict(type='mmws.Converted', model=dict(backbone={BACKBONE}))")
    prepare(config)  # which drops them


def save(path):
    path.parent.mkdir(exist_ok=True)
    meta = {'epoch': 1, 'iter': 4, 'time': '20260101_000000'}
    weights = {'weight': torch.zeros(1)}
    torch.save({'state_dict': weights, 'meta': meta, 'optimizer': {}, 'message_hub': {}}, path)
    return str(path)


def test_resume_continues_from_the_last_or_the_named_checkpoint(config, tmp_path):
    named = save(tmp_path / 'epoch_1.pth')
    cfg = prepare(config, resume=named)
    assert (cfg.resume, cfg.load_from) == (True, named)
    # Bug: the work dir was moved, and the old path in last_checkpoint is gone.
    (tmp_path / 'last_checkpoint').write_text('/somewhere/else/epoch_1.pth')
    cfg = prepare(config, resume='auto', work_dir=tmp_path)
    assert (cfg.resume, cfg.load_from) == (True, named)


def test_resume_without_a_checkpoint_yet_keeps_the_pretrained_weights(config, tmp_path):
    # Bug: a job that is always started with --resume trains from scratch.
    pretrained = save(tmp_path / 'pretrained.pth')
    options = {'load_from': pretrained}
    cfg = prepare(config, resume='auto', work_dir=tmp_path / 'new', cfg_options=options)
    assert (cfg.get('resume', False), cfg.load_from) == (False, pretrained)


@pytest.mark.parametrize('option', ['resume', 'checkpoint'])
def test_a_missing_checkpoint_is_named_before_anything_is_built(config, option):
    with pytest.raises(FileNotFoundError, match=r'checkpoint gone\.pth does not exist'):
        prepare(config, **{option: 'gone.pth'})


@pytest.mark.parametrize(
    ('steps', 'error'),
    [
        (None, 'needs val_dataloader'),
        (['LoadAnnotations'], 'training pipeline with LoadAnnotations'),
    ],
)
def test_a_validation_loss_that_cannot_be_computed_is_refused_before_the_training(
    config, steps, error
):
    # Bug: a traceback after the first epoch.
    if steps is not None:
        pipeline = [{'type': step} for step in steps]
        dataset = {'type': 'mmdet.CocoDataset', 'pipeline': pipeline}
        options = {'val_dataloader': {'dataset': dataset}, 'train_dataloader': {}}
        config.write_text(
            config.read_text() + ''.join(f'{name} = {value}\n' for name, value in options.items())
        )
    with pytest.raises(ValueError, match=error):
        prepare(config, val_loss=True)


def test_a_data_set_without_metainfo_is_evaluated(tmp_path):
    # Bug: AttributeError, though MMEngine evaluates it.
    cfg = toy_config(tmp_path, length=1, val=False)
    path = Path(tmp_path, 'weights.pth')
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, path)
    loader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
    loader['dataset'] = dict(type='ImagesWithoutMetainfo')
    cfg.launcher = 'none'
    cfg.update(test_dataloader=loader, test_cfg={}, test_evaluator=dict(type='ToyScore'))
    cfg.load_from = str(path)
    assert 'score' in evaluate(cfg)


@pytest.mark.skipif(torch.cuda.is_available(), reason='--amp works here')
def test_amp_without_a_gpu_is_refused(config):
    with pytest.raises(ValueError, match='`amp` needs a GPU'):
        prepare(config, amp=True)


def test_amp_keeps_a_loss_scale_of_the_config(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert prepare(config, amp=True).optim_wrapper.loss_scale == 'dynamic'
    cfg = prepare(config, amp=True, cfg_options={'optim_wrapper.loss_scale': 512.0})
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 512.0


@pytest.mark.parametrize('content', [b'weights', b'PK\x03\x04', b''])
def test_a_file_that_is_no_checkpoint_is_named(config, tmp_path, content):
    (tmp_path / 'x.pth').write_bytes(content)
    with pytest.raises(ValueError, match=r'checkpoint x\.pth cannot be read'):
        prepare(config, checkpoint='x.pth')


def test_a_checkpoint_without_weights_is_named(config, tmp_path):
    # Bug: the check of the loaded weights does not know which file they came from.
    torch.save({'state_dict': {}, 'meta': {}}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=r'x\.pth holds no weights in its state_dict'):
        prepare(config, checkpoint='x.pth')


def test_a_work_dir_that_cannot_be_made_is_told_before_training(config, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='file'):
        prepare(config, work_dir=tmp_path / 'file' / 'work')


def test_auto_scale_lr_needs_a_base_batch_size(config):
    assert prepare(config, auto_scale_lr=True).auto_scale_lr.enable
    with pytest.raises(ValueError, match='base_batch_size'):
        prepare(config, auto_scale_lr=True, cfg_options={'auto_scale_lr': {'_delete_': True}})


def toy(tmp_path, **options):
    from tests.helpers.toy_training import toy_config

    return toy_config(tmp_path / 'w', length=2, val=False, **options)


@pytest.mark.parametrize(
    ('path', 'value', 'named'),
    [
        ('train_cfg', {'by_epoch': False}, 'max_iters'),
        ('param_scheduler', [dict(type='LinearLR', end='x', by_epoch=False)], 'LinearLR'),
        ('optim_wrapper.optimizer', dict(type='AdamW', lr=0.1, betas=3), 'AdamW|betas|subscript'),
        ('train_dataloader.drop_last', -1.5, 'drop_last'),
        ('custom_hooks', [dict(type='mmws.DivergenceHook', max_skipped='x')], 'max_skipped'),
    ],
)
def test_what_the_runner_cannot_build_is_one_error(tmp_path, path, value, named):
    # Bug: MMEngine builds loops and schedules late, so their errors are tracebacks of the training.
    cfg = toy(tmp_path)
    cfg.launcher = 'none'
    new = value if not isinstance(value, dict) else {'_delete_': True, **value}
    cfg.merge_from_dict({path: new})
    with pytest.raises(ConfigError, match=named):
        train(cfg)


def test_an_error_of_the_config_names_the_key_of_the_part(tmp_path):
    # Bug: a message names a class of MMEngine alone, which stands at five places of the config.
    cfg = toy(tmp_path)
    cfg.launcher = 'none'
    cfg.param_scheduler = [dict(type='LinearLR', begin=0, end='x', by_epoch=False)]
    with pytest.raises(ConfigError, match=r'built: LinearLR \(param_scheduler\.0\): TypeError'):
        train(cfg)


def test_a_bug_in_a_step_keeps_its_traceback(tmp_path, monkeypatch):
    # Bug: an error of the model's own code is told as one of the config.
    from tests.helpers.toy_training import ToyNet

    def fail(*arguments, **options):
        raise TypeError('a bug')

    monkeypatch.setattr(ToyNet, 'forward', fail)
    cfg = toy(tmp_path)
    cfg.launcher = 'none'
    with pytest.raises(TypeError, match=r'^a bug$'):
        train(cfg)


def test_a_checkpoint_that_the_runner_cannot_load_is_named(tmp_path):
    # Bug: an AssertionError of MMEngine's about its message hub.
    cfg = toy(tmp_path)
    cfg.launcher = 'none'
    train(cfg)
    checkpoint = torch.load(tmp_path / 'w/iter_2.pth', weights_only=True)
    del checkpoint['message_hub']['log_scalars']
    torch.save(checkpoint, tmp_path / 'odd.pth')
    cfg.experiment_name += 'again'
    cfg.resume, cfg.load_from = True, str(tmp_path / 'odd.pth')
    with pytest.raises(CheckpointError, match=r'odd\.pth cannot be loaded: .*log_scalars'):
        train(cfg)


def test_a_checkpoint_to_resume_from_is_read_once(config, tmp_path, monkeypatch):
    # Bug: three readings of a file of gigabytes before the training begins.
    named = save(tmp_path / 'w' / 'epoch_1.pth')
    read, load = [], torch.load
    monkeypatch.setattr(torch, 'load', lambda *args, **kw: read.append(args) or load(*args, **kw))
    prepare(config, work_dir=tmp_path / 'w', resume=named)
    assert len(read) == 1
