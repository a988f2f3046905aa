"""A training that is told to stop saves what it has done."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmws.compat.mmengine_private import is_resuming
from mmws.registry import HOOKS

from .data_workers import end_workers
from .durable_checkpoint import DurableCheckpointHook

RESUMABLE = 75
"""Exit status of a training that was stopped and can be resumed: EX_TEMPFAIL of sysexits.h."""

STATUS_FILE = 'MMWS_STATUS_FILE'
"""Environment variable: where a rank tells the launcher of mmws that the training was stopped."""

_PENDING = 'mmws_validation_pending'
"""Entry of a checkpoint that was written because the validation after it was stopped: True."""

_SIGNALS = ('SIGTERM', 'SIGINT', 'SIGUSR1', 'SIGHUP')
# torchrun passes on a Ctrl-C that the terminal has sent to the ranks as well.
_SECONDS_OF_ONE_SIGNAL = 0.5
_SECONDS_TO_TELL = 5


def parse_duration(text: str | float) -> float:
    """Return the seconds of ``HOURS:MINUTES:SECONDS``, ``MINUTES:SECONDS`` or seconds.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        text = str(text)
    if not isinstance(text, str) or not re.fullmatch(r'(\d{1,6}:){0,2}\d{1,9}(\.\d+)?', text):
        raise ValueError(f'{text!r} is no duration: write HOURS:MINUTES:SECONDS, or seconds')
    seconds = 0.0
    for part in text.split(':'):
        seconds = 60 * seconds + float(part)
    return seconds


@HOOKS.register_module()
class StopHook(Hook):
    """Save and exit, with a status that says 'resume me', on a signal or at the end of a time.

    ``custom_hooks = [dict(type='mmws.StopHook')]`` in a config; the training of mmws adds it by
    itself. SIGTERM, SIGINT (Ctrl-C), SIGHUP and SIGUSR1 (Slurm's ``--signal=USR1@60``) are waited
    for; all ranks stop after the same iteration, the one after that in which the first rank was
    told, and exit when the checkpoint is whole. Where it cannot be written, all ranks exit with
    status 1. A second signal ends the process at once. A validation that was stopped is run when
    the training is resumed, if :class:`mmws.DurableCheckpointHook` wrote the checkpoint.

    Args:
        stop_after: Seconds, or ``'H:MM:SS'``, after the start of this process.
    """

    priority = 'LOWEST'

    def __init__(self, stop_after: str | float | None = None) -> None:
        self._deadline = None if stop_after is None else _started() + parse_duration(stop_after)
        self._signals = _Signals()
        self._group: Any = None
        self._vote: tuple[dist.Work, torch.Tensor] | None = None
        self._is_pending = False  # the validation after the last iteration

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if is_resuming(runner):
            self._is_pending = checkpoint.get(_PENDING) is True

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._is_pending:
            checkpoint[_PENDING] = True

    def before_train(self, runner: Runner) -> None:
        self._signals.listen(runner)
        if get_world_size() > 1:
            # Votes are counted on the CPU, where nobody waits for a GPU.
            self._group = dist.new_group(backend='gloo')
        # This hook is the last one, so all others are ready for the training.
        if self._is_pending and runner.val_loop is not None:
            runner.logger.info('the validation that was stopped begins again')
            runner.val_loop.run()
        self._is_pending = False

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        if self._all_agree():
            self._save_on_all_ranks(runner)
            self._exit(runner, runner.iter + 1)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        loader = runner.val_dataloader
        images = get_world_size() * (loader.batch_size or 1)
        # The last rank may have one batch less.
        if batch_idx < len(loader.dataset) // images and self._all_agree():
            # Other hooks put back what they have changed for the validation, such as the weights.
            runner.call_hook('after_val_epoch', metrics={})
            runner.call_hook('after_val')
            self._is_pending = True
            self._save_on_all_ranks(runner, after_validation=True)
            self._exit(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        if self._vote is not None:
            self._vote[0].wait()
            self._vote = None
        self.release()

    def release(self) -> None:
        """Let go of the process group, and handle signals as before the training."""
        # The threads of the group end with the last reference to it.
        self._group = None
        self._signals.restore()

    def _told(self) -> bool:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return True
        return self._signals.received is not None

    def _all_agree(self) -> bool:
        """Whether any rank had been told to stop by the end of the iteration before this one."""
        if self._group is None:
            return self._told()
        stop = False
        if self._vote is not None:
            work, votes = self._vote
            work.wait()
            stop = bool(votes.item())
        if stop:
            self._vote = None
            return True
        votes = torch.tensor([int(self._told())])
        work = dist.all_reduce(votes, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._vote = (work, votes)
        return False

    def _save_on_all_ranks(self, runner: Runner, after_validation: bool = False) -> None:
        """Save, and return once every rank has; the first rank alone writes the file.

        A launcher takes a rank that exits for a failure and ends the others, also one that writes.
        """
        error = None
        try:
            self._save(runner, after_validation)
        except Exception as failure:
            error = failure
        failed = torch.tensor([int(error is not None)])
        if self._group is not None:
            dist.all_reduce(failed, dist.ReduceOp.MAX, group=self._group)
        if error is not None:
            raise error
        if failed.item():
            runner.logger.warning('another rank could not save what was done: this one ends')
            self.release()
            # The rank that failed tells the cause, for which it must not be ended by a launcher.
            time.sleep(_SECONDS_TO_TELL)
            raise SystemExit(1)

    def _save(self, runner: Runner, after_validation: bool = False) -> None:
        for hook in runner.hooks:
            if isinstance(hook, DurableCheckpointHook):
                # What was saved before the validation does not say that the validation is missing.
                done = runner.iter + (not after_validation)
                hook.save_now(runner, done, again=after_validation)
                return
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and not after_validation:
                hook._save_checkpoint(runner)
                return
        if after_validation:
            runner.logger.warning(
                'the validation was stopped and is not run again: the checkpoint hook is not '
                'mmws.DurableCheckpointHook, which would save that it is to be run'
            )

    def _exit(self, runner: Runner, iteration: int) -> None:
        told = 'another rank was told to'
        if self._signals.received is not None:
            told = signal.Signals(self._signals.received).name
        elif self._told():
            told = 'the time is over'
        runner.logger.warning(
            f'stopped after iteration {iteration} ({told}); what was done is saved: resume it'
        )
        end_workers()
        status_file = os.environ.get(STATUS_FILE)
        if status_file is None:
            raise SystemExit(RESUMABLE)
        # The launcher would take any other status for a failure, and restart the ranks.
        Path(status_file).write_text(str(RESUMABLE))
        raise SystemExit(0)


_before_fork = threading.local()


@functools.cache
def _end_forked_processes_by_signals() -> None:
    """From now on, a forked process does not inherit the handler of :class:`_Signals`.

    Nothing in a forked process, such as a worker of a pool, looks at what the handler remembers,
    so whoever terminates the process would wait for it for ever. Signals are blocked meanwhile,
    because Python discards what arrives before the child's interpreter is ready.
    """
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]

    def block() -> None:
        _before_fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _before_fork.mask)

    def unblock_in_child() -> None:
        for number in numbers:
            if isinstance(getattr(signal.getsignal(number), '__self__', None), _Signals):
                signal.signal(number, signal.SIG_DFL)
        unblock()

    if hasattr(os, 'register_at_fork'):
        os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=unblock_in_child)


class _Signals:
    """Remembers the first signal that asks this process to stop; a second one ends the process.

    The handler must not refer to the hook: a handler lives as long as the process, and the hook
    refers to the process group, whose threads have to end before the interpreter does.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        self._previous: dict[int, Any] = {}
        self._runner: Callable[[], Runner | None] = lambda: None
        self._train: CodeType | None = None  # of the method of the runner that trains

    def listen(self, runner: Runner | None = None) -> None:
        """Handle the signals from now on; only the main thread can, so others change nothing.

        Args:
            runner: Signals are handled only while a method of it runs, the outermost of those that
                run now. ``None``: until :meth:`restore`.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self.restore()
        self.received = None
        _end_forked_processes_by_signals()
        self._train = None
        if runner is not None:
            self._runner = weakref.ref(runner)
            *_, self._train = (None, *_methods_of(runner, sys._getframe()))
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            # What is ignored, as SIGHUP is under nohup, stays ignored.
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)

    def restore(self) -> None:
        """Handle the signals as before :meth:`listen`."""
        while self._previous:
            number, handler = self._previous.popitem()
            # A handler that somebody else has installed since then stays.
            if signal.getsignal(number) == self._on_signal:
                # None stands for a handler that was not installed from Python.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._train is not None and self._train not in _methods_of(self._runner(), frame):
            # The training has failed. MMEngine tells hooks only of a training that succeeds, so
            # the handlers are still those of this object.
            self.restore()
            if signal.getsignal(number) == self._on_signal:  # it was put back by another training
                is_interrupt = number == signal.SIGINT
                default = signal.default_int_handler if is_interrupt else signal.SIG_DFL
                signal.signal(number, default)
            signal.raise_signal(number)
            return
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = number, now
        elif now - self._received_at > _SECONDS_OF_ONE_SIGNAL:
            os._exit(128 + number)


def _methods_of(runner: Runner | None, frame: FrameType | None) -> Iterator[CodeType]:
    """Yield the code of the methods of ``runner`` that run in ``frame``, the innermost first."""
    while frame is not None:
        # Before Python 3.13, a frame that is asked for its locals keeps them: ask no function that
        # outlives the training and holds the runner.
        is_method = frame.f_code.co_varnames[:1] == ('self',)
        if runner is not None and is_method and frame.f_locals.get('self') is runner:
            yield frame.f_code
        frame = frame.f_back


def _started() -> float:
    """Return when this process started, in the time of :func:`time.monotonic`."""
    try:
        ticks = int(Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19])
        return ticks / os.sysconf('SC_CLK_TCK')
    except (OSError, ValueError, IndexError):
        return time.monotonic()
