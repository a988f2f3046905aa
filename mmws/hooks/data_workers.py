"""Data workers that end with the process they work for, and not before it."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmws.compat.mmengine_private import restart_workers
from mmws.compat.processes import end_with_parent
from mmws.registry import HOOKS

_SECONDS_TO_FINISH = 5


class WorkerInit:
    """``worker_init_fn`` that ties a worker's life to that of its parent.

    A signal to the whole process group, as Ctrl-C and batch systems send it, does not end the
    worker at once: the training needs it until the checkpoint is saved.

    Args:
        init: The ``worker_init_fn`` of the loader, which is called too.
    """

    def __init__(self, init: Callable[[int], Any] | None = None) -> None:
        self.init = init

    def __call__(self, worker_id: int) -> None:
        started_by, parent = os.getppid(), multiprocessing.parent_process()
        if parent is not None:
            # A fork server, which starts workers in place of the parent, ends with the parent.
            has_server = started_by != parent.pid and parent.is_alive()
            end_with_parent(started_by if has_server else parent.pid or 0)
            sys.excepthook = _tell_unless_parent_ends
        # A forked worker has inherited the handlers of the training.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, _end_soon)
        if self.init is not None:
            self.init(worker_id)


def _tell_unless_parent_ends(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    # The connection breaks a moment before the system tells that the parent has ended, and ends
    # this process. In that case there is nothing to tell.
    if isinstance(error, (EOFError, ConnectionError)):
        time.sleep(1)
    sys.__excepthook__(kind, error, trace)


def _end_soon(number: int, frame: FrameType | None) -> None:
    # PyTorch sends SIGTERM as well, to a worker that did not end when it was told to.
    signal.alarm(_SECONDS_TO_FINISH)


def tie_workers(loader: DataLoader) -> None:
    """Have the workers that a loader will start end with this process."""
    if os.name == 'posix' and not isinstance(loader.worker_init_fn, WorkerInit):
        loader.worker_init_fn = WorkerInit(loader.worker_init_fn)


def end_workers() -> None:
    """End all data workers of this process at once, before it ends itself.

    A worker that is blocked, because nobody reads what it sends, cannot be asked to end.
    """
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers and threading.current_thread() is threading.main_thread():
        # PyTorch raises an error when a worker is killed.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(timeout=5)


@HOOKS.register_module()
class DataWorkersHook(Hook):
    """Leave no data worker behind, however the training or the test ends.

    ``custom_hooks = [dict(type='mmws.DataWorkersHook')]`` in a config; mmws adds it by itself.
    """

    priority = 'HIGHEST'

    def before_train(self, runner: Runner) -> None:
        tie_workers(runner.train_dataloader)
        atexit.unregister(end_workers)
        atexit.register(end_workers)

    def after_train(self, runner: Runner) -> None:
        # Persistent workers are told to end here. If the garbage collector came to them, they
        # could not be told any more, and PyTorch would wait 5 s for each.
        restart_workers(runner.train_dataloader)

    def before_val(self, runner: Runner) -> None:
        tie_workers(runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        tie_workers(runner.test_dataloader)
