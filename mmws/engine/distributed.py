"""Processes and devices: gloo where there is no CUDA, free ports, as many processes as GPUs."""

import os
import socket

import torch
import torch.distributed as dist
from mmengine.config import Config

DEFAULT_PORT = 29500


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
            f'--launcher {launcher} needs CUDA; on the CPU use tools/dist_train.sh (torchrun)'
        )
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise ValueError('--launcher pytorch is set by torchrun: use tools/dist_train.sh')


def prepare_distributed(cfg: Config) -> None:
    """Start the process group over gloo where there is no CUDA, before MMEngine's Runner does.

    MMEngine's own start calls ``torch.cuda.set_device`` and hands the wrapper ``device_ids``;
    both fail on the CPU. With CUDA, or without a launcher, nothing is done.

    Args:
        cfg: The run's config, ``launcher`` set; ``model_wrapper_cfg`` is changed in place.

    Raises:
        ValueError: as :func:`check_launcher`.
    """
    if cfg.launcher == 'none' or torch.cuda.is_available():
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
        dist.init_process_group('gloo')


def finish_distributed() -> None:
    """Leave the process group, if there is one; call it when the work is done.

    A process that exits inside the group now and then crashes on the way out, in the threads that
    still listen to the others, and torchrun then calls a finished training failed.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def local_rank_zero() -> bool:
    """Whether this process is the one of its machine that may speak for all."""
    return int(os.environ.get('LOCAL_RANK', 0)) == 0
