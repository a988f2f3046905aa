import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmws.checkpoints import find_intact
from mmws.hooks.stop import _Signals, parse_duration
from tests.helpers.paths import ROOT
from tests.helpers.toy_training import ToyFault, differences, run, toy_config


@pytest.mark.parametrize(
    ('text', 'seconds'),
    [('3:55:00', 14100), ('10:30', 630), ('45', 45), (45, 45), ('0.5', 0.5), ('100:00:00', 360000)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize('text', ['', '1h', '-5', '1:2:3:4', 'nan', True, None, '1' * 400, '1:-2'])
def test_what_is_no_duration_is_told(text):
    with pytest.raises(ValueError, match='is no duration: write HOURS:MINUTES:SECONDS'):
        parse_duration(text)


def test_the_end_of_the_time_saves_and_exits_with_a_status_of_its_own(tmp_path):
    cfg = toy_config(tmp_path, length=10_000, interval=10_000, val=False)
    for hook in cfg.custom_hooks:
        if hook.type == 'mmws.StopHook':
            hook.stop_after = 0  # this process has run for longer
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as stopped:
            run(cfg)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert stopped.value.code == 75
    assert find_intact(tmp_path).path.name == 'iter_1.pth'


def raises_key_error(runner, data_batch):
    raise KeyError('of the model')


@pytest.fixture
def sigint():
    """Ctrl-C raises KeyboardInterrupt, as in a terminal, whatever started this process."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('trainings', [1, 2])
def test_after_a_training_that_failed_signals_do_what_they_did_before(
    tmp_path, monkeypatch, sigint, trainings
):
    # Bug: in a notebook, the first Ctrl-C after the failure does nothing, the second ends it all.
    monkeypatch.setattr(ToyFault, 'action', staticmethod(raises_key_error))
    runner = Runner.from_cfg(toy_config(tmp_path, length=5, val=False))
    for _ in range(trainings):
        with pytest.raises(KeyError, match='of the model'):
            runner.train()
    assert signal.getsignal(signal.SIGINT) != signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_training_that_failed_does_not_handle_the_signals_of_the_next(
    tmp_path, monkeypatch, sigint
):
    def interrupt(runner, data_batch):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ToyFault, 'action', staticmethod(raises_key_error))
    failed = Runner.from_cfg(toy_config(tmp_path, length=5, val=False))
    with pytest.raises(KeyError, match='of the model'):
        failed.train()
    monkeypatch.setattr(ToyFault, 'action', staticmethod(interrupt))
    cfg = toy_config(tmp_path, length=5, val=False)
    cfg.experiment_name += '_next'
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type != 'mmws.StopHook']
    with pytest.raises(KeyboardInterrupt):
        Runner.from_cfg(cfg).train()


def test_handlers_of_others_are_left_alone(sigint):
    # Bug: after two failed trainings that began again in turn, Ctrl-C recurses without an end.
    first, second = _Signals(), _Signals()
    runner = Training()
    for signals in (first, second, first, second):
        runner.train(signals)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    runner.train(first)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the user
    first.restore()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


class Training:
    def train(self, signals):
        signals.listen(self)


def test_a_training_that_was_stopped_can_go_on_in_the_same_process(tmp_path, monkeypatch, sigint):
    # Bug: the second training of a runner stops at once, and cannot save.
    def interrupt_once(runner, data_batch):
        if runner.iter == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ToyFault, 'action', staticmethod(interrupt_once))
    runner = Runner.from_cfg(toy_config(tmp_path, length=5, val=False))
    with pytest.raises(SystemExit):
        runner.train()
    assert find_intact(tmp_path).path.name == 'iter_2.pth'
    runner.train_loop._iter = 2
    runner.train()
    assert find_intact(tmp_path).path.name == 'iter_5.pth'


@HOOKS.register_module()
class StopsValidation(Hook):
    """Stops the training in the validation after an iteration, as often as ``times`` says."""

    times = 0
    validated: list[int] = []  # noqa: RUF012

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 1 and runner.iter == self.stops_at and StopsValidation.times:
            StopsValidation.times -= 1
            signal.raise_signal(signal.SIGTERM)

    def after_val_epoch(self, runner, metrics=None):
        if metrics:
            self.validated.append(runner.iter)


@pytest.mark.parametrize('times', [1, 2])
@pytest.mark.parametrize(('by_epoch', 'stops_at'), [(False, 6), (True, 7), (True, 14)])
def test_a_validation_that_was_stopped_is_run_when_the_training_is_resumed(
    tmp_path, monkeypatch, sigint, by_epoch, stops_at, times
):
    # Bugs: the evaluation after iteration 6 is missing in the log and for the best checkpoint,
    # without a word; random numbers or gradients of the training are those of the second start.
    length, interval = (2, 1) if by_epoch else (7, 3)
    options = dict(by_epoch=by_epoch, length=length, interval=interval, accumulate=2, ema=True)
    last = 'epoch_2.pth' if by_epoch else 'iter_7.pth'
    full, part = (toy_config(tmp_path / name, **options) for name in ('full', 'part'))
    for cfg in (full, part):
        cfg.custom_hooks.append(dict(type='StopsValidation'))
    monkeypatch.setattr(StopsValidation, 'stops_at', stops_at, raising=False)
    StopsValidation.validated.clear()
    run(full)
    expected = StopsValidation.validated[:]
    StopsValidation.validated.clear()
    monkeypatch.setattr(StopsValidation, 'times', times)
    resume = None
    for _ in range(times):
        with pytest.raises(SystemExit):
            run(part, resume=resume)
        resume = str(find_intact(tmp_path / 'part').path)
    run(part, resume=resume)
    assert StopsValidation.validated == expected
    assert differences(tmp_path / 'full' / last, tmp_path / 'part' / last) == []
    # The next resume, of a checkpoint after that, runs nothing again.
    StopsValidation.validated.clear()
    run(part, resume=str(tmp_path / 'part' / last))
    assert StopsValidation.validated == []


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from tests.helpers.toy_training import *

# A shell starts background jobs with SIGINT ignored, and the training leaves that so.
signal.signal(signal.SIGINT, signal.default_int_handler)

work_dir, how = Path(sys.argv[1]), sys.argv[2]
how_long = 0.05 if how == 'training' else 0


def step(runner, data_batch):
    time.sleep(how_long)
    (work_dir / 'step').write_text(str(runner.iter))


class Slow(Hook):
    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        (work_dir / 'validates').touch()
        time.sleep(0.5)


cfg = toy_config(work_dir, length=100_000, interval=5 if how == 'validation' else 100_000,
                 workers=2, ema=True, val=how == 'validation')
cfg.default_hooks.checkpoint.interval = 100_000
cfg.train_dataloader.dataset.images = 50
if how == 'validation':
    HOOKS.register_module(name='Slow', module=Slow)
    cfg.custom_hooks.append(dict(type='Slow'))
run(cfg, step)
"""


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def children(pid):
    """Return the ids of all processes below one."""
    found = []
    for entry in os.listdir('/proc'):
        try:
            with open(f'/proc/{entry}/stat') as file:
                parent = int(file.read().rpartition(')')[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == pid:
            found += [int(entry), *children(int(entry))]
    return found


def alive(pids):
    return [pid for pid in pids if os.path.exists(f'/proc/{pid}') and not is_zombie(pid)]


def is_zombie(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] == 'Z'
    except OSError:
        return True


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/stat'), reason='processes are listed by /proc')
@pytest.mark.parametrize('group', [False, True])
@pytest.mark.parametrize(
    ('number', 'how', 'status'),
    [
        (signal.SIGTERM, 'training', 75),
        (signal.SIGINT, 'training', 75),
        (signal.SIGUSR1, 'validation', 75),
        (signal.SIGKILL, 'training', -9),
    ],
)
def test_a_signal_saves_and_leaves_no_process(tmp_path, number, how, status, group):
    # Bugs: nothing is saved; data workers stay for ever, blocked in writing to their pipe, or end
    # before the training does, because a batch system sends its signal to them as well.
    training = subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', PROGRAM, str(tmp_path), how],
        cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    marker = tmp_path / ('validates' if how == 'validation' else 'step')
    wait_for(lambda: marker.exists() or training.poll() is not None)
    time.sleep(0.2)
    workers = children(training.pid)
    assert len(workers) >= 2
    (os.killpg if group and status > 0 else os.kill)(training.pid, number)
    _, errors = training.communicate(timeout=300)
    assert training.returncode == status, errors
    assert 'Traceback' not in errors
    wait_for(lambda: not alive(workers), 30)
    if status > 0:
        assert find_intact(tmp_path).path is not None


def test_a_process_that_is_forked_during_a_training_can_be_terminated():
    # Bug: a pool of processes that is made in a training inherits the handler and ignores SIGTERM,
    # or loses a SIGTERM that comes at once; whoever closes the pool waits for ever.
    signals = _Signals()
    signals.listen()
    try:
        child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))
        child.start()
        child.terminate()
        child.join(10)
        assert child.exitcode == -signal.SIGTERM
    finally:
        signals.restore()
    assert signals.received is None
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
