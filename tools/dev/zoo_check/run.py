"""Check the configs of the zoo, each in a process with limits. A check can be resumed."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import mmdet
import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config
from tqdm import tqdm

from tools.dev.errors import one_line

from .check import check_model, tiny_config

ZOO = Path(mmdet.__file__).parent / '.mim' / 'configs'
RESULTS = 'results.jsonl'


def zoo_configs(root: Path = ZOO) -> list[str]:
    """Return the configs below ``root`` that are no bases, beginning with one of every folder."""
    paths = [p.relative_to(root) for p in sorted(root.glob('**/*.py'))]
    paths = [p for p in paths if '_base_' not in p.parts and p.parts[0] != 'common']
    seen: dict[str, int] = {}
    ranks = {}
    for path in paths:
        ranks[path] = seen[path.parts[0]] = seen.get(path.parts[0], 0) + 1
    return [str(p) for p in sorted(paths, key=lambda p: (ranks[p], p))]


def check_zoo(
    out: str | Path,
    *,
    root: Path = ZOO,
    configs: Iterable[str] | None = None,
    workers: int = 2,
    seconds: float = 300,
    gigabytes: float = 8,
    minutes: float | None = None,
) -> Path:
    """Check configs of the zoo and append one JSON line for each to ``out/results.jsonl``.

    Configs that already have a line are skipped, so calling the function again resumes an
    interrupted check. A config that has the same :func:`tools.dev.zoo_check.check.tiny_config` as
    an earlier one is not run; its line has the name of that config as ``same_as``. Tracebacks of
    failures are written to ``out/failures/``.

    Args:
        out: Folder to write to.
        root: Folder of the configs.
        configs: Names below ``root``; all by default.
        workers: Number of processes that run at the same time, each with one thread.
        seconds: Time limit of a config.
        gigabytes: Limit of the private memory of a process.
        minutes: Time after which no further config is begun; None: all are.

    Returns:
        The file of results.
    """
    last_start = time.monotonic() + 60 * (float('inf') if minutes is None else minutes)
    out = Path(out)
    (out / 'failures').mkdir(parents=True, exist_ok=True)
    results = out / RESULTS
    done = {result['config'] for result in read_results(results)}
    configs = list(zoo_configs(root) if configs is None else configs)
    # Import and set up here what the forked processes inherit.
    torch.set_num_threads(1)
    register_all_modules()
    os.environ['HF_HUB_OFFLINE'] = '1'
    cut_off = results.is_file() and not results.read_text(encoding='utf-8').endswith('\n')
    with results.open('a', encoding='utf-8') as file:
        file.write('\n' if cut_off else '')
        bar = tqdm(total=len(configs), initial=len(done & {*configs}), unit='config')
        with bar, _Pool(root, out, workers, seconds, gigabytes) as pool:

            def record(result: dict[str, Any]) -> None:
                file.write(json.dumps(result) + '\n')
                file.flush()
                bar.update()

            models: dict[str, str] = {}
            for config in configs:
                if time.monotonic() > last_start:
                    break
                result = _plan(root, config, models)
                if config in done:
                    continue
                if result is not None:
                    record(result)
                    continue
                while pool.is_full():
                    for finished in pool.wait():
                        record(finished)
                pool.start(config)
            while pool.jobs:
                for finished in pool.wait():
                    record(finished)
    return results


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of results without one that an interruption has cut off."""
    if not path.is_file():
        return []
    results = []
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return results


def _plan(root: Path, config: str, models: dict[str, str]) -> dict[str, Any] | None:
    """Return the result of a config that needs no run, None if its model must be run."""
    try:
        cfg = read_zoo_config(root, config, import_custom_modules=False)
    except Exception as error:  # A config is a program and raises any kind of error.
        return {'config': config, 'stage': 'read', 'error': one_line(error)}
    key = json.dumps(tiny_config(cfg.model), sort_keys=True, default=str)
    first = models.setdefault(key, config)
    return None if first == config else {'config': config, 'same_as': first}


def read_zoo_config(root: Path, config: str, **options: Any) -> Config:
    """Read a config of the zoo.

    Args:
        root: Folder of the configs.
        config: Name below it.
        **options: For ``Config.fromfile``.

    Raises:
        ValueError: if it has no model.
    """
    cfg = Config.fromfile(root / config, **options)
    if 'model' not in cfg:
        raise ValueError('has no model: a part that other configs take in')
    teacher = cfg.model.get('teacher_config')
    if isinstance(teacher, str):
        # The teacher is another config; read it, so that its pretrained weights are removed too.
        cfg.model.teacher_config = Config.fromfile(root.parent / teacher)._cfg_dict
    return cfg


@dataclass
class _Job:
    process: multiprocessing.process.BaseProcess
    connection: Connection
    deadline: float
    result: dict[str, Any] = field(default_factory=dict)


class _Pool:
    """A pool of processes, each of which checks one config and ends."""

    def __init__(
        self, root: Path, out: Path, workers: int, seconds: float, gigabytes: float
    ) -> None:
        self.jobs: list[_Job] = []
        self._root, self._out = root, out
        self._workers, self._seconds, self._gigabytes = workers, seconds, gigabytes
        # A forked process has all modules at once. Forking is safe here, as there is one thread.
        self._context = multiprocessing.get_context('fork')

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *exception: Any) -> None:
        for job in self.jobs:
            job.process.kill()

    def is_full(self) -> bool:
        return len(self.jobs) >= self._workers

    def start(self, config: str) -> None:
        receiver, sender = self._context.Pipe(duplex=False)
        trace = self._out / 'failures' / f'{config.replace("/", "__")}.txt'
        arguments = (sender, self._root, config, trace, self._gigabytes)
        process = self._context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        # With this copy closed, `recv` raises EOFError as soon as the process has ended.
        sender.close()
        deadline = time.monotonic() + self._seconds
        self.jobs.append(_Job(process, receiver, deadline, {'config': config}))

    def wait(self) -> list[dict[str, Any]]:
        """Wait for about a second at most; return the results of the jobs that have ended."""
        ready = wait([job.connection for job in self.jobs], timeout=1)
        finished = []
        for job in list(self.jobs):
            if job.connection in ready and not self._receive(job):
                finished.append(job)
            elif time.monotonic() > job.deadline:
                job.process.kill()
                job.result['error'] = f'over the time limit of {self._seconds:.0f} s'
                finished.append(job)
        for job in finished:
            self.jobs.remove(job)
            job.process.join()
            code = job.process.exitcode
            if code and 'error' not in job.result:
                job.result['error'] = f'the process ended with exit code {code}'
        return [job.result for job in finished]

    @staticmethod
    def _receive(job: _Job) -> bool:
        """Add a message of a job to its result; return whether the job is still running."""
        try:
            job.result.update(job.connection.recv())
        except EOFError:
            return False
        return True


def _work(sender: Connection, root: Path, config: str, trace: Path, gigabytes: float) -> None:
    started = time.monotonic()
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())
    os.dup2(silence, sys.stderr.fileno())
    try:
        sender.send({'stage': 'build'})
        for result in check_model(read_zoo_config(root, config)):
            sender.send(result)
        sender.send({'stage': 'done'})
    except Exception as error:  # The error of a stage is the result of the check.
        trace.write_text(traceback.format_exc(), encoding='utf-8')
        sender.send({'error': one_line(error)})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sender.send({'date': time.strftime('%Y-%m-%d')})
    sender.send({'seconds': round(time.monotonic() - started, 1), 'gigabytes': round(peak, 2)})
