"""Check the models of other libraries, each in a process of its own; an interrupted run goes on."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tools.dev.errors import one_line

from .check import check_model
from .models import LIBRARIES, all_models
from .report import failure, write_page


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('libraries', nargs='*', help=f'of {", ".join(LIBRARIES)} (default: all)')
    parser.add_argument('--out', default='work_dirs/library_check.jsonl', help='file of results')
    parser.add_argument('--report', metavar='FILE.md', help='write the page, and check nothing')
    parser.add_argument('--retry', action='store_true', help='check failures again')
    parser.add_argument('--seconds', type=float, default=300, help='time limit of a model')
    parser.add_argument('--minutes', type=float, help='start no further model after this time')
    parser.add_argument('--gigabytes', type=float, default=8, help='memory limit of a process')
    return parser.parse_args()


def _read_results(path: Path) -> list[dict[str, Any]]:
    """Return the latest result of each model: a failure that is tried again stays until then."""
    if not path.exists():
        return []
    results = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    return list({(result['library'], result['model']): result for result in results}.values())


def main() -> None:
    args = parse_args()
    out = Path(args.out)
    results = _read_results(out)
    if args.report:
        write_page(results, Path(args.report))
        return
    last_start = time.monotonic() + 60 * (float('inf') if args.minutes is None else args.minutes)
    done = {
        (result['library'], result['model'])
        for result in results
        if not (args.retry and failure(result))
    }
    os.environ['HF_HUB_OFFLINE'] = '1'
    torch.set_num_threads(1)
    _load_modules()
    with out.open('a', encoding='utf-8') as file:
        for library in args.libraries or LIBRARIES:
            try:
                models = list(all_models(library))
            except ImportError as error:
                print(f'{library} is left out: {error}', file=sys.stderr)
                continue
            for name, build in models:
                if (library, name) in done:
                    continue
                if time.monotonic() > last_start:
                    return
                result = {'library': library, 'model': name}
                result.update(run_limited(build, args.seconds, args.gigabytes))
                file.write(json.dumps(result) + '\n')
                file.flush()


def _load_modules() -> None:
    """Take a small model through all stages, for the modules that PyTorch imports on the way.

    A process that is forked has them at once; each would import them anew otherwise.
    """
    for _ in check_model(lambda: nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32))):
        pass


def run_limited(build: Callable[[], nn.Module], seconds: float, gigabytes: float) -> dict[str, Any]:
    """Check a model in a process of its own, and return its results."""
    context = multiprocessing.get_context('fork')  # a process then has all modules at once
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, build, gigabytes), daemon=True)
    process.start()
    sender.close()
    result: dict[str, Any] = {}
    deadline = time.monotonic() + seconds
    while True:
        if not receiver.poll(max(0.0, deadline - time.monotonic())):
            process.kill()
            result['error'] = f'over the time limit of {seconds:.0f} s'
            break
        try:
            result.update(receiver.recv())
        except EOFError:
            break
    process.join()
    if process.exitcode and 'error' not in result:
        result['error'] = f'the process ended with exit code {process.exitcode}'
    return result


def _work(sender: Connection, build: Callable[[], nn.Module], gigabytes: float) -> None:
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())
    os.dup2(silence, sys.stderr.fileno())
    try:
        for result in check_model(build):
            sender.send(result)
    except Exception as error:  # a failure of a model is a result
        sender.send({'error': one_line(error)})


if __name__ == '__main__':
    main()
