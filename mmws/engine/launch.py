"""Checks before torchrun: ``python -m mmws.engine.launch train|test NUM_PROCESSES SCRIPT ARGS...``.

``dist_train.sh`` and ``dist_test.sh`` call this module. It checks the run once and prints errors
once, where each process would print them, and then starts torchrun.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from mmws.hooks.stop import STATUS_FILE

from . import cli
from .distributed import (
    DEFAULT_PORT,
    LAUNCHER,
    STARTED,
    check_process_count,
    choose_port,
    choose_threads,
)

_LIMITS = {'PORT': 65535}
_FAILED = 1
_CHECKS = {
    'train': (cli.parse_train_args, cli.prepare_train),
    'test': (cli.parse_test_args, cli.prepare_test),
}


def torchrun_arguments(num_processes: int) -> 'list[str]':
    """Return arguments for torchrun, from ``NNODES NODE_RANK MASTER_ADDR PORT`` in the environment.

    Several trainings may start on one machine at the same time, so there a busy ``PORT`` is
    replaced by a free one, and without ``PORT`` torchrun chooses one. On several machines ``PORT``
    must be the same everywhere and is kept.

    Args:
        num_processes: Number of processes on this machine.

    Raises:
        ValueError: if a variable is missing or not a number, or there are fewer GPUs than
            processes.
    """
    check_process_count(num_processes)
    numbers = {'NNODES': 1, 'NODE_RANK': 0, 'PORT': DEFAULT_PORT}
    for name, default in numbers.items():
        text = os.environ.get(name, str(default))
        if not text.isdigit() or int(text) > _LIMITS.get(name, int(text)):
            raise ValueError(f'environment variable {name} must be a number, got {text!r}')
        numbers[name] = int(text)
    processes = f'--nproc_per_node={num_processes}'
    if numbers['NNODES'] <= 1:
        if 'PORT' not in os.environ:
            return ['--standalone', processes]
        port = choose_port(numbers['PORT'])
        if port != numbers['PORT']:
            print(f'port {numbers["PORT"]} is busy: using {port}', flush=True)
        # By the addresses in a static store, restarted processes would look for dead ones.
        return [processes, '--rdzv_backend=c10d', f'--rdzv_endpoint=127.0.0.1:{port}']
    if 'MASTER_ADDR' not in os.environ:
        raise ValueError('NNODES > 1 needs MASTER_ADDR, the address of the machine of NODE_RANK 0')
    return [
        processes,
        f'--nnodes={numbers["NNODES"]}',
        f'--node_rank={numbers["NODE_RANK"]}',
        f'--master_addr={os.environ["MASTER_ADDR"]}',
        f'--master_port={numbers["PORT"]}',
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Check the run, then start ``SCRIPT ARGS... --launcher pytorch`` in every process.

    A training that was stopped and saved ends with status :data:`mmws.hooks.RESUMABLE`, and with 1
    if one of its processes failed.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('task', choices=_CHECKS)
    parser.add_argument('num_processes')
    parser.add_argument('script')
    parser.add_argument('arguments', nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ[STARTED] = time.strftime('%Y%m%d_%H%M%S')
    # YAPF, by which MMEngine formats configs, writes a cache at its first use on a machine, and one
    # rank would read it while another is writing it: let it be written before they start.
    Config().pretty_text  # noqa: B018
    choose_threads()
    with cli.one_line_errors():
        if not args.num_processes.isdecimal() or len(args.num_processes) > 6:
            raise ValueError(
                f'the number of processes must be a whole number, got {args.num_processes[:20]!r}'
            )
        check_process_count(int(args.num_processes))
        parse, check = _CHECKS[args.task]
        parsed = parse(args.arguments)
        check(parsed)
        options = torchrun_arguments(int(args.num_processes))
    restarts = f'--max_restarts={getattr(parsed, "max_restarts", 0)}'
    with tempfile.TemporaryDirectory(prefix='mmws_') as folder:
        status_file = Path(folder, 'status')
        os.environ[STATUS_FILE] = str(status_file)
        # Restarted processes would find the addresses of dead ones in the store that the launcher
        # shares with them, and wait for them for ever: give every start a store of its own.
        os.environ.setdefault('TORCH_DISABLE_SHARE_RDZV_TCP_STORE', '1')
        # SIGUSR1 is what Slurm sends with --signal before it takes the machine away.
        os.environ.setdefault('PET_SIGNALS_TO_HANDLE', 'SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1')
        script = [args.script, *args.arguments, '--launcher', 'pytorch']
        status = _run([*options, restarts, *script])
        # A rank that failed counts more than one that was stopped: what it did is not saved, or the
        # ranks were started again after the stop.
        if status != _FAILED and status_file.exists():
            status = int(status_file.read_text())
    sys.exit(status)


def run_module(num_processes: int, module: str, *arguments: str) -> int:
    """Run a module in several processes of this machine alone, and return the exit status."""
    machine = ['--standalone', '--nnodes=1', f'--nproc_per_node={num_processes}']
    return _run([*machine, '-m', module, *arguments])


def _run(arguments: Sequence[str]) -> int:
    try:
        torchrun(arguments)
    except SignalException as error:
        print(f'the launcher got {error.sigval.name}', file=sys.stderr)
        return 128 + error.sigval
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        return _FAILED
    return 0


if __name__ == '__main__':
    main()
