"""Checks before torchrun: ``python -m mmws.engine.launch train|test NUM_PROCESSES SCRIPT ARGS...``.

``dist_train.sh`` and ``dist_test.sh`` call this module. It checks the run once and prints errors
once, where each process would print them, and then starts torchrun.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Optional

from torch.distributed.run import main as torchrun

from . import cli
from .distributed import DEFAULT_PORT, check_process_count, choose_port

_LIMITS = {'PORT': 65535}
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
        return [processes, '--master_addr=127.0.0.1', f'--master_port={port}']
    if 'MASTER_ADDR' not in os.environ:
        raise ValueError('NNODES > 1 needs MASTER_ADDR, the address of the machine of NODE_RANK 0')
    return [
        processes,
        f'--nnodes={numbers["NNODES"]}',
        f'--node_rank={numbers["NODE_RANK"]}',
        f'--master_addr={os.environ["MASTER_ADDR"]}',
        f'--master_port={numbers["PORT"]}',
    ]


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Check the run, then start ``SCRIPT ARGS... --launcher pytorch`` in every process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('task', choices=_CHECKS)
    parser.add_argument('num_processes')
    parser.add_argument('script')
    parser.add_argument('arguments', nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    with cli.one_line_errors():
        if not args.num_processes.isdigit():
            raise ValueError(
                f'the number of processes must be a whole number, got {args.num_processes!r}'
            )
        check_process_count(int(args.num_processes))
        parse, check = _CHECKS[args.task]
        check(parse(args.arguments))
        options = torchrun_arguments(int(args.num_processes))
    torchrun([*options, args.script, *args.arguments, '--launcher', 'pytorch'])


if __name__ == '__main__':
    main()
