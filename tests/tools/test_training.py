"""The command lines from end to end, on a tiny set: train, evaluate, resume on two processes."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch

from mmws.compat import read_checkpoint
from mmws.data.digits import CLASSES, generate_digits
from mmws.data.new_config import new_config
from tests.helpers.digits_config import small_digits, write_digits_config
from tests.helpers.paths import ROOT
from tests.helpers.processes import error_line, run, run_tool

pytestmark = pytest.mark.e2e

# With no threshold, two steps from random weights give scores to compare.
SHORT = """
model = dict(test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=20)))
train_cfg = dict(max_iters=2, val_interval=2)
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('training')
    data = small_digits(folder / 'digits', num_train=6, num_val=3)
    return write_digits_config(folder / 'tiny.py', data, SHORT)


@pytest.fixture(scope='module')
def work_dir(config):
    """Of a training of two steps."""
    folder = config.parent / 'work'
    output = run_tool('train.py', config, '--work-dir', folder, '--cfg-options', 'log_levl=INFO')
    assert 'did you mean log_level?' in output
    return folder


def evaluations(work_dir: Path, pattern: str) -> list[dict]:
    text = ''.join(path.read_text() for path in sorted(work_dir.glob(pattern)))
    lines = [json.loads(line) for line in text.splitlines()]
    keep = re.compile(r'coco/(bbox|segm)_')
    scores = [{k: v for k, v in line.items() if keep.match(k)} for line in lines]
    return [score for score in scores if score]


def test_training_leaves_checkpoint_and_both_metrics(work_dir):
    # Bug: auto_scale_lr is off, and one image a step trains at the rate of two.
    checkpoint = read_checkpoint(work_dir / 'iter_2.pth')
    assert checkpoint['optimizer']['param_groups'][0]['initial_lr'] == pytest.approx(0.5e-3)
    # Bug: a checkpoint does not say that it must go into layers with Weight Standardization.
    (weights,) = checkpoint['meta']['mmws']['weights']
    assert weights['function'] == 'Standardize'
    assert 'backbone.conv1' in weights['layers']
    assert 'roi_head.bbox_head.fc_cls' not in weights['layers']
    (scores,) = evaluations(work_dir, '*/vis_data/scalars.json')
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= scores.keys()


def test_evaluating_the_checkpoint_prints_the_scores_of_training(config, work_dir, tmp_path):
    # Bug: the checkpoint misses a buffer, or test and validation pipelines differ.
    run_tool('test.py', config, work_dir / 'iter_2.pth', '--work-dir', tmp_path)
    assert evaluations(tmp_path, '*/*.json') == evaluations(work_dir, '*/vis_data/scalars.json')


def test_resuming_on_two_processes_with_a_busy_port(config, work_dir, tmp_path):
    # Bugs: PyTorch's safe loading refuses MMEngine's log history; the Runner asks for CUDA; a
    # second training on the machine dies of its port.
    work_dir = shutil.copytree(work_dir, tmp_path / 'work')
    with socket.socket() as busy:
        busy.bind(('', 0))
        busy.listen()
        port = busy.getsockname()[1]
        output = run(
            ROOT / 'tools' / 'dist_train.sh', config, 2, '--work-dir', work_dir, '--resume',
            '--cfg-options', 'train_cfg.max_iters=4', PORT=str(port),
        )  # fmt: skip
    assert f'port {port} is busy: using ' in output
    assert re.search(r'resumed epoch: \d+, iter: 2', output)
    before, after = (read_checkpoint(work_dir / f'iter_{n}.pth') for n in (2, 4))
    assert after['meta']['iter'] == 4
    assert any(
        not torch.equal(before['state_dict'][key], value)
        for key, value in after['state_dict'].items()
    )


def test_when_one_process_dies_all_end(config, tmp_path):
    # Bug: the survivors wait for the dead one in all-reduce, and the job hangs for half an hour.
    (tmp_path / 'die.py').write_text(
        'import os, sys\n'
        'from mmengine.hooks import Hook\n'
        'from mmengine.registry import HOOKS\n'
        '@HOOKS.register_module()\n'
        'class Die(Hook):\n'
        '    def before_train_iter(self, runner, **kwargs):\n'
        '        if runner.rank == 1: os._exit(3)\n'
    )
    dying = tmp_path / 'dying.py'
    dying.write_text(
        f"_base_ = '{config}'\n"
        "custom_imports = dict(imports=['mmws', 'die'])\n"
        "custom_hooks = [dict(type='mmengine.Die')]\n"
    )
    output = run(
        ROOT / 'tools' / 'dist_train.sh', dying, 2, '--work-dir', tmp_path / 'work',
        code=1, PYTHONPATH=f'{ROOT}:{tmp_path}',
    )  # fmt: skip
    assert 'exitcode  : 3' in output
    assert not list((tmp_path / 'work').glob('iter_*.pth'))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere.py'], 'config nowhere.py does not exist'),
        (['{config}', '--resume', 'gone.pth'], 'checkpoint gone.pth does not exist'),
        (['{config}', '--resume', '{config}'], 'tiny.py cannot be read (UnpicklingError)'),
        (['{config}', '--launcher', 'pytorch'], 'use tools/dist_train.sh'),
        (['{config}', '--cfg-options', 'train_dataloader.batch_size=0'], 'batch_size must be'),
        (['{config}', '--cfg-options', 'train_dataloader.dataset.data_root=gone/'], 'gone'),
        (['{config}', '--cfg-options', 'val_evaluator.ann_file=gone.json'], 'gone.json'),
    ],
)
def test_a_mistake_is_one_line_before_any_training(config, tmp_path, arguments, message):
    arguments = [part.format(config=config) for part in arguments]
    work_dir = tmp_path / 'work'
    output = run_tool('train.py', *arguments, '--work-dir', work_dir, code=1)
    assert message in error_line(output)
    assert not work_dir.exists()


def test_a_checkpoint_of_another_model_is_refused(config, tmp_path):
    # Bug: nothing is loaded, and random weights are evaluated to an mAP of 0.
    torch.save({'state_dict': {'other.weight': torch.zeros(3)}}, tmp_path / 'other.pth')
    output = run_tool('test.py', config, tmp_path / 'other.pth', '--work-dir', tmp_path, code=1)
    assert 'shares no weight with the model' in error_line(output)


def test_weights_trained_with_other_layers_are_refused_in_one_line(config, work_dir, tmp_path):
    # Bug: a traceback out of the Runner, or a training that starts from unfit weights.
    weights = read_checkpoint(work_dir / 'iter_2.pth')['state_dict']
    prefix = 'backbone.'
    weights = {k.replace('gn', 'bn'): v for k, v in weights.items() if k.startswith(prefix)}
    weights = {k[len(prefix) :]: v for k, v in weights.items()}
    for key in [k for k in weights if 'bn' in k and k.endswith('.bias')]:
        weights[key.replace('.bias', '.running_mean')] = weights[key]
    torch.save(weights, tmp_path / 'bn.pth')
    pretrained = tmp_path / 'pretrained.py'
    pretrained.write_text(
        f"_base_ = '{config}'\n"
        f"init_cfg = dict(_delete_=True, type='Pretrained', checkpoint='{tmp_path}/bn.pth')\n"
        'model = dict(backbone=dict(init_cfg=init_cfg))\n'
    )
    output = run_tool('train.py', pretrained, '--work-dir', tmp_path / 'work', code=1)
    assert 'bn.pth was trained with Batch Normalization' in error_line(output)
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_the_launcher_finds_a_mistake_before_it_starts_processes(config, tmp_path):
    # Bug: every process prints a traceback, and torchrun another one around them.
    launch = ROOT / 'tools' / 'dist_train.sh'
    assert run(launch, config, code=1).startswith('usage: tools/dist_train.sh CONFIG')
    assert "got 'two'" in error_line(run(launch, config, 'two', code=1))
    assert 'nowhere.py does not exist' in error_line(run(launch, 'nowhere.py', 2, code=1))
    options = [config, 'gone.pth', 2]
    output = run(ROOT / 'tools' / 'dist_test.sh', *options, '--work-dir', tmp_path, code=1)
    assert 'gone.pth does not exist' in error_line(output)


def test_data_in_voc_layout_from_tree_to_scores(tmp_path):
    # Bug: a command of the chain writes what the next one does not find or cannot read.
    size = {'image_size': (128, 128), 'digit_size': (28, 64)}
    generate_digits(tmp_path / 'digits', num_train=4, num_val=2, voc=True, **size)
    config = tmp_path / 'mine.py'
    new_config(
        voc=tmp_path / 'digits' / 'VOCdevkit' / 'VOC2012',
        classes=CLASSES,
        base=ROOT / 'configs' / 'mask_rcnn_r18_gnws_narrow.py',
        iters=2,
        out=config,
    )
    loaders = [
        f'{split}_dataloader.{key}'
        for split in ('train', 'val')
        for key in ('num_workers=0', 'persistent_workers=False')
    ]
    run_tool(
        'train.py', config, '--work-dir', tmp_path / 'work', '--cfg-options', *loaders,
        'val_evaluator.type=mmws.VOCMetric', 'default_hooks.checkpoint.save_best=voc/segm_mAP',
    )  # fmt: skip
    (scalars,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    assert {'voc/bbox_mAP', 'voc/bbox_AP50_11point', 'voc/segm_APr70'} <= json.loads(
        scalars.read_text().splitlines()[-1]
    ).keys()
