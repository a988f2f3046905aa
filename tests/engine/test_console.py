"""What a person sees of a training: a header, progress, each evaluation in a line, and the end."""

from __future__ import annotations

import logging
import os
import re
import warnings

import numpy as np
import pytest
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmws.engine import train
from mmws.engine.console import Console
from mmws.engine.console_text import class_table, duration, one_line_scores
from mmws.engine.distributed import choose_threads
from mmws.evaluation.coco_metric import ClassScore
from tests.helpers.toy_training import ToyFault, at, toy_config


@pytest.fixture
def run(tmp_path, capfd):
    """Train a toy with the console, and return what the terminal shows and the log file holds."""

    def train_toy(action=None, **options):
        # Faults are those of toy trainings; what acts may log, warn and print.
        ToyFault.action = staticmethod(action) if action else None
        cfg = toy_config(tmp_path, **{'log_level': 'INFO', 'launcher': 'none', **options})
        train(cfg, Console('configs/toy.py'))
        shown = capfd.readouterr()
        assert not shown.err
        (log,) = tmp_path.glob('*/*.log')
        return shown.out, log.read_text()

    yield train_toy
    ToyFault.action = None


def test_the_terminal_shows_what_a_person_needs(run):
    # Bug: the first result stands below hundreds of lines of environment, config and hooks.
    out, log = run(length=6, interval=3, images=7)
    lines = out.splitlines()
    assert len(lines) < 40
    header = dict(line.split(maxsplit=1) for line in lines[: lines.index('')])
    assert header['data'].startswith('7 images to train on, 7 to evaluate on')
    assert header['model'].startswith('ToyNet, ')
    assert '1 image(s) per update; learning rate 0.01' in header['update']
    assert header['length'].startswith('6 iterations')
    assert 'GiB' in header['device']
    assert header['log'].endswith('.log')
    assert [line for line in lines if re.match(r'[36]/6   score 0\.\d', line)], out
    assert re.search(r'^best +.*best_score_iter_[36]\.pth, 0\.\d', out, re.M)
    assert re.search(r'^time +0:00:\d\d$', out, re.M)
    assert re.search(r'tools/test\.py|test\.py configs/toy\.py .*best_score_iter_', out)
    for tool in ('predict', 'report', 'fold'):
        assert f'{tool}.py ' in out
    # MMEngine's log is whole in its file.
    assert 'Hooks will be executed' in log
    assert '(val)' in log
    assert 'Hooks will be executed' not in out


def test_progress_is_told_some_twenty_times(run):
    # Bug: in a log file of a job, a line for every iteration hides the evaluations.
    out, _ = run(length=200, interval=100)
    assert 15 <= len(re.findall(r'^ *\d+/200   loss', out, re.M)) <= 22
    assert re.search(r'^100/200   loss \d\.\d{3}   \d\.\d\d s a step   0:00:\d\d left', out, re.M)


def test_epochs_are_counted_as_such(run):
    out, _ = run(by_epoch=True, length=2, interval=1)
    assert re.search(r'^epoch 2/2   14/14   loss', out, re.M)
    assert 'an evaluation every epoch' in out


def test_warnings_of_the_stack_go_to_the_log_and_others_are_shown(run, caplog):
    # Bugs: eight warnings that a user cannot act on; or the one that matters is hidden with them.
    def act(runner: Runner, data_batch: object) -> None:
        for _ in range(2):
            logging.getLogger('mmws').warning('mind the gap')
        runner.logger.error('this is wrong')
        runner.logger.info('only for the log')
        warnings.warn('deprecated by somebody', DeprecationWarning, stacklevel=1)
        code = "from mmengine.logging import print_log\nprint_log('of the stack', 'current', 30)"
        exec(code, {'__name__': 'mmdet.anything'})
        print_log('of mine', 'current', logging.WARNING)
        print('printed by the user')

    with warnings.catch_warnings():
        warnings.simplefilter('always')
        out, log = run(at(1, act), length=3, interval=3)
    lines = out.splitlines()
    for line in ('warning: mind the gap', 'error: this is wrong', 'warning: of mine'):
        assert lines.count(line) == 1, out
    assert 'printed by the user' in lines
    for text in ('of the stack', 'deprecated by somebody', 'only for the log'):
        assert text not in out
        assert text in log
    hidden = int(re.search(r'^warnings (\d+), in the log', out, re.M)[1])
    assert hidden >= 2


def test_a_terminal_gets_one_live_line(run, monkeypatch):
    # Bug: every iteration is a line, and the evaluations scroll away.
    monkeypatch.setattr('mmws.engine.console._SECONDS_OF_LIVE_LINE', 0)
    monkeypatch.setattr('mmws.engine.console._is_terminal', lambda: True)
    out, _ = run(length=6, interval=3)
    assert '/6   loss' in out
    # What stays once each carriage return has gone back to the start of its line.
    kept = [line.rpartition('\r')[2] for line in out.split('\n')]
    assert not [line for line in kept if '/6   loss' in line], kept
    assert [line for line in kept if line.startswith('6/6   score')]


def test_the_warnings_of_python_are_shown_again_afterwards(run):
    # Bug: a notebook that has trained once shows no warning any more.
    show = warnings.showwarning
    run(length=1, interval=1)
    assert warnings.showwarning is show


def test_scores_are_named_for_people():
    scores = {'coco/bbox_mAP': 0.5123, 'coco/bbox_mAP_50': 0.8, 'coco/segm_mAP': -1.0, 'x': 1}
    assert one_line_scores(scores) == 'box mAP 0.512, AP50 0.800   mask mAP –'
    assert one_line_scores({'pascal/mAP': 0.25}) == 'mAP 0.250'
    assert one_line_scores({'acc/top1': 71.5, 'acc/name': 'x'}) == 'top1 71.500'
    # Bug: scores of NumPy, as MMSegmentation's, are left out.
    assert one_line_scores({'mIoU': np.float32(7.5)}) == 'mIoU 7.500'
    assert duration(3661.4) == '1:01:01'


def test_a_table_of_many_classes_shows_the_best_and_the_worst():
    rows = [ClassScore(f'class {k}', k, {'bbox': 0.9 - k / 100}) for k in range(80)]
    rows.append(ClassScore('without objects', 0, {'bbox': float('nan')}))
    table = class_table(rows)
    assert len(table) == 22
    assert table[0].split() == ['class', 'objects', 'box', 'mAP']
    assert table[1].split() == ['class', '0', '0', '0.900']
    assert '... and 61 more' in table[11]
    assert table[-1].split() == ['without', 'objects', '0', '–']
    assert not class_table([])


@pytest.mark.parametrize(('given', 'expected'), [(None, 1), ('3', None)])
def test_one_thread_unless_the_environment_says_how_many(monkeypatch, given, expected):
    # Bug: on busy cores, threads that wait for one another make a step twenty times slower.
    monkeypatch.setenv('OMP_NUM_THREADS', given or '')
    monkeypatch.setenv('MKL_NUM_THREADS', '')
    monkeypatch.delenv('MKL_NUM_THREADS')
    if given is None:
        monkeypatch.delenv('OMP_NUM_THREADS')
    chosen = []
    monkeypatch.setattr('torch.set_num_threads', chosen.append)
    choose_threads()
    assert chosen == ([expected] if expected else [])
    assert os.environ['OMP_NUM_THREADS'] == os.environ['MKL_NUM_THREADS'] == (given or '1')
