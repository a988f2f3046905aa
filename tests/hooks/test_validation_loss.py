import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmws.hooks.validation_loss import validation_loss_loader
from tests.helpers.paths import NARROW_CONFIG
from tests.helpers.toy_training import differences, run, toy_config


def evaluations(work_dir):
    (path,) = Path(work_dir).glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line['validation/loss'] for line in lines if 'validation/loss' in line]


def test_the_loss_is_logged_beside_the_metrics_and_changes_nothing(tmp_path):
    plain, with_loss = toy_config(tmp_path / 'plain'), toy_config(tmp_path / 'with_loss')
    with_loss.custom_hooks.append(dict(type='mmws.ValidationLossHook'))
    run(plain)
    runner = run(with_loss)
    losses = evaluations(tmp_path / 'with_loss')
    assert len(losses) == 4
    # Bug: the random numbers of the validation loss, or the gradients of its pass, get into the
    # training.
    assert differences(tmp_path / 'plain/iter_12.pth', tmp_path / 'with_loss/iter_12.pth') == []
    assert all(parameter.grad is None for parameter in runner.model.parameters())


def test_the_loss_of_unchanged_weights_is_the_same_each_time(tmp_path):
    cfg = toy_config(tmp_path)
    cfg.custom_hooks.append(dict(type='mmws.ValidationLossHook'))
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.optim_wrapper.optimizer.weight_decay = 0.0
    run(cfg)
    losses = evaluations(tmp_path)
    assert losses == [pytest.approx(losses[0])] * 4
    assert torch.tensor(losses).isfinite().all()


def test_annotations_are_loaded_before_the_image_is_resized():
    # Bug: boxes in the scale of the original image are compared with those of the resized one.
    cfg = Config.fromfile(NARROW_CONFIG)
    steps = [step['type'] for step in validation_loss_loader(cfg)['dataset']['pipeline']]
    assert steps == ['LoadImageFromFile', 'LoadAnnotations', 'Resize', 'PackDetInputs']
    assert [step['type'] for step in cfg.val_dataloader.dataset.pipeline][1] == 'Resize'


@pytest.mark.parametrize('steps', [['LoadImageFromFile', 'PackInputs'], []])
def test_a_pipeline_without_annotations_stays_as_it_is(steps):
    # Bug: a classifier, whose labels are no annotations to load, is refused after its first epoch.
    pipeline = [dict(type=step) for step in steps]
    cfg = dict(
        train_dataloader=dict(dataset=dict(type='A', pipeline=pipeline)),
        val_dataloader=dict(dataset=dict(type='A', pipeline=pipeline)),
    )
    assert validation_loss_loader(cfg) == cfg['val_dataloader']


def test_annotations_that_the_training_does_not_load_are_told():
    cfg = Config.fromfile(NARROW_CONFIG)
    cfg.val_dataloader.dataset.pipeline.insert(1, dict(type='LoadAnnotations'))
    del cfg.train_dataloader.dataset.pipeline[1]
    with pytest.raises(ValueError, match='needs a training pipeline with LoadAnnotations'):
        validation_loss_loader(cfg)
