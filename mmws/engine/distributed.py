"""Processes and devices: gloo where there is no CUDA, free ports, as many processes as GPUs."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.logging import print_log

from mmws.compat.processes import end_with_parent

DEFAULT_PORT = 29500
LAUNCHER = 'MMWS_LAUNCHER'
"""Environment variable: process id of :mod:`mmws.engine.launch`, which started this process."""
STARTED = 'MMWS_STARTED'
"""Environment variable: when that launcher began, as MMEngine writes times into checkpoints."""
TIMEOUT = timedelta(minutes=10)
"""After which a rank that waits for one that has stopped ends the run."""
# A process that fails may wait so long for the operations that it had begun with the others.
_SECONDS_TO_LEAVE = 10


def check_process_count(num_processes: int) -> None:
    """Check that this machine has a GPU for every process.

    Without CUDA any number of processes may train, over gloo on the CPU.

    Raises:
        ValueError: if ``num_processes`` is below 1, or above the GPUs present.
    """
    if num_processes < 1:
        raise ValueError(f'the number of processes must be at least 1, got {num_processes}')
    num_gpus = torch.cuda.device_count()
    if 0 < num_gpus < num_processes:
        raise ValueError(
            f'{num_processes} processes were asked for but this machine has {num_gpus} GPU(s): '
            f'pass {num_gpus} (the learning rate scales by itself), or set CUDA_VISIBLE_DEVICES= '
            'to train on the CPU'
        )


def choose_port(port: int) -> int:
    """Return ``port`` if a server can be bound to it on this machine, else a free one."""
    for candidate in (port, 0):
        with socket.socket() as server:
            # As torch's own store does: a port in TIME_WAIT counts as free.
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                server.bind(('', candidate))
            except (OSError, OverflowError):
                continue
            return server.getsockname()[1]
    raise OSError('no free TCP port on this machine')


def check_launcher(launcher: str) -> None:
    """Check that a job launcher can work here.

    Raises:
        ValueError: if it needs CUDA and there is none, or torchrun did not start this process.
    """
    if launcher in ('slurm', 'mpi') and not torch.cuda.is_available():
        raise ValueError(
            f'`launcher` {launcher} needs CUDA; on the CPU use tools/dist_train.sh (torchrun)'
        )
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise ValueError('`launcher` pytorch is set by torchrun: use tools/dist_train.sh')


def choose_threads() -> None:
    """Let PyTorch compute with one thread, as torchrun does, unless the environment says how many.

    Threads wait for one another after every operation. On cores that data workers or other programs
    use, a training step took 20 s with two threads and 1.2 s with one.
    """
    if 'OMP_NUM_THREADS' not in os.environ:
        os.environ['OMP_NUM_THREADS'] = '1'  # processes that this one starts inherit it
        torch.set_num_threads(1)
    os.environ.setdefault('MKL_NUM_THREADS', os.environ['OMP_NUM_THREADS'])


def join_launcher() -> None:
    """End when the launcher does: nobody else would tell this process to.

    Does nothing in a process that :mod:`mmws.engine.launch` has not started.
    """
    launcher = os.environ.get(LAUNCHER, '')
    if 'RANK' in os.environ and launcher.isdigit():
        end_with_parent(int(launcher))


def prepare_distributed(cfg: Config) -> None:
    """Start the process group over gloo where there is no CUDA, before MMEngine's Runner does.

    MMEngine's own start calls ``torch.cuda.set_device`` and hands the wrapper ``device_ids``;
    both fail on the CPU. With CUDA MMEngine starts the group, and without a launcher there is none.
    However the process ends, it leaves the group before the interpreter finalizes.

    Args:
        cfg: The run's config, ``launcher`` set; ``model_wrapper_cfg`` is changed in place.

    Raises:
        ValueError: as :func:`check_launcher`.
    """
    if cfg.launcher == 'none':
        return
    atexit.unregister(_leave_group_at_exit)
    atexit.register(_leave_group_at_exit)
    timeout = ((cfg.get('env_cfg') or {}).get('dist_cfg') or {}).get('timeout')
    if timeout is None:
        timeout = TIMEOUT.total_seconds()
        cfg.merge_from_dict({'env_cfg': {'dist_cfg': {'timeout': timeout}}})
    if torch.cuda.is_available():
        return
    check_launcher(cfg.launcher)
    cfg.merge_from_dict({'env_cfg': {'dist_cfg': {'backend': 'gloo'}}})
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    wrapper.update(cfg.get('model_wrapper_cfg') or {})
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)
    if not dist.is_initialized():
        dist.init_process_group('gloo', timeout=timedelta(seconds=timeout))


def finish_distributed() -> None:
    """Leave the process group, if there is one, and end its threads.

    A worker thread of gloo destroys the tensors of the last operation after the operation is
    reported as done, and needs the GIL for that. If the interpreter finalizes meanwhile, the
    process aborts, and torchrun reports a finished training as failed. The threads are joined when
    the last reference to the group goes; ``DistributedDataParallel`` holds one. Call this after
    all work of all ranks has succeeded, when nothing refers to the wrapped model any more.
    """
    if not dist.is_initialized():
        return
    # Without the barrier a fast rank closes connections that a slow one still needs.
    dist.barrier()
    _destroy_group()
    if group_threads():
        print_log(
            'the process group of torch.distributed is still in use: something refers to a model '
            'in its DistributedDataParallel wrapper, so this process may abort at its end',
            logger='current',
            level=logging.WARNING,
        )


def group_threads() -> list[str]:
    """Return the names of gloo's threads in this process (empty where there is no /proc)."""
    names = []
    for thread in Path('/proc/self/task').glob('*/comm'):
        # A thread may end between the listing and the reading.
        with contextlib.suppress(OSError):
            names.append(thread.read_text().strip())
    return [name for name in names if 'gloo' in name]


def _destroy_group() -> None:
    gc.collect()  # the runner and its hooks refer to each other, and to the wrapped model
    dist.destroy_process_group()
    gc.collect()


def _leave_group_at_exit() -> None:
    """Leave the group of a process that failed, without waiting for the other ranks."""
    if not dist.is_available() or not (dist.is_initialized() or group_threads()):
        return
    # The traceback of the error, already printed, refers to the runner.
    for name in ('last_exc', 'last_value', 'last_traceback'):
        if hasattr(sys, name):
            setattr(sys, name, None)
    # A thread can be joined only when its operation ends, and the others may never take part.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_SECONDS_TO_LEAVE)
    if dist.is_initialized():
        _destroy_group()
    gc.collect()
    signal.alarm(0)


def local_rank_zero() -> bool:
    """Whether this process is the one of its machine that may speak for all."""
    return int(os.environ.get('LOCAL_RANK', 0)) == 0
