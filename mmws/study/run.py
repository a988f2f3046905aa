"""Run the trainings of a study one after another, each in a process of its own."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from numbers import Real
from pathlib import Path
from typing import TextIO

from .cell_config import write_cell_config
from .results import Result, append_result, best_rates, group_number, read_results
from .spec import Cell, Spec, all_cells, as_path

_PACKAGES = (
    'mmws',
    'torch',
    'torchvision',
    'mmengine',
    'onedl-mmengine',
    'mmdet',
    'onedl-mmdetection',
    'mmsegmentation',
    'onedl-mmsegmentation',
    'torch-geometric',
)
_OF_LAUNCHERS = (
    'RANK', 'LOCAL_RANK', 'GROUP_', 'ROLE_', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_', 'PET_',
    'TORCHELASTIC_', 'MMWS_STATUS_FILE', 'MMWS_LAUNCHER',
)  # fmt: skip


def run_study(
    spec: Spec,
    results_file: str | Path,
    work_dir: str | Path,
    *,
    shard: tuple[int, int] = (1, 1),
    stop_after: float = math.inf,
    only: str = '',
    screen: TextIO | None = None,
) -> int:
    """Run what the results file does not have yet, and append to it.

    Each run is a process, ``python -m mmws.engine.cell``, that trains by the same functions as
    ``tools/train.py``. A diverged training is a result. Any other failure ends the study: it lies
    in the configs or the data, and the next run would fail as well.

    Args:
        spec: The study.
        results_file: JSON lines; several processes may append to it at a time.
        work_dir: Folder for configs and logs of the runs.
        shard: ``(i, n)``: run the ``i``-th, from 1, of ``n`` parts. All runs of a task and a form
            are in the same part, because some of them choose the learning rate of the others.
        stop_after: Begin no run later than so many seconds after the call.
        only: Take only runs whose name contains this text; a form may be written as in the spec or
            as in a folder.
        screen: Where the line with the state goes; None prints nothing.

    Returns:
        How many runs are left for another call.

    Raises:
        ValueError: if no run has ``only`` in its name.
        RuntimeError: if a run fails otherwise than by divergence, with its last line.
    """
    results_file, work_dir = Path(results_file), Path(work_dir)
    begin = time.monotonic()
    while True:
        results = read_results(results_file)
        cells = all_cells(spec, best_rates(spec, results))
        if not any(_may_be_named(c, as_path(only)) for c in cells):
            names = ', '.join(dict.fromkeys(f'{c.task}/{c.form}' for c in cells))
            raise ValueError(f'no run of {spec.path} has {only!r} in its name; there are {names}')
        part = [c for c in cells if group_number(c, cells) % shard[1] == shard[0] - 1]
        left = [cell for cell in part if cell not in results]
        ready = [c for c in left if c.rate is not None and as_path(only) in c.name]
        if not ready or time.monotonic() - begin > stop_after:
            return len(ready)
        state = _State(len(part) - len(left), len(part), time_left(left, results.values()))
        result = run_cell(spec, ready[0], work_dir, state, screen)
        append_result(results_file, result)


def _may_be_named(cell: Cell, text: str) -> bool:
    """Whether a run has a text in its name, or may have it once its learning rate is known."""
    if cell.rate is not None:
        return text in cell.name
    before, _, after = replace(cell, rate=0.0).name.partition('_rate0')
    return text in before or text in after or '_rate' in text


def time_left(cells: Iterable[Cell], results: Iterable[Result]) -> float | None:
    """Return the expected duration of runs in seconds, None where no run like one was done yet.

    It is the median of the runs of the same task, images a step and updates; failing these, that
    of the task.
    """
    by_kind: dict[tuple, list[float]] = {}
    for result in results:
        for kind in ((result.task, result.images_per_step, result.updates), (result.task,)):
            by_kind.setdefault(kind, []).append(result.seconds)
    total = 0.0
    for cell in cells:
        durations = by_kind.get((cell.task, cell.images_per_step, cell.updates))
        durations = durations or by_kind.get((cell.task,))
        if not durations:
            return None
        total += statistics.median(durations)
    return total


class _State:
    """The line that tells how far a study is."""

    def __init__(self, done: int, total: int, left: float | None) -> None:
        self.done, self.total, self.left = done, total, left
        self.begin = time.monotonic()

    def line(self, cell: Cell) -> str:
        spent = time.monotonic() - self.begin
        left = 'unknown' if self.left is None else _duration(max(0.0, self.left - spent))
        return (
            f'[{self.done + 1}/{self.total}] {cell.name}: {_duration(spent)}, '
            f'time left in all: {left}'
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}'


def run_cell(
    spec: Spec, cell: Cell, work_dir: Path, state: _State, screen: TextIO | None
) -> Result:
    """Train one cell and return its result."""
    folder = work_dir / cell.name
    shutil.rmtree(folder, ignore_errors=True)  # what a run that was killed has left
    write_cell_config(spec, cell, folder)
    processes = spec.forms[cell.form].processes
    module = ['-m', 'mmws.engine.cell', str(folder), str(processes), str(os.getpid())]
    # An outer job, such as one of torchrun, describes its own processes by these variables.
    own = {name: text for name, text in os.environ.items() if not name.startswith(_OF_LAUNCHERS)}
    begin = time.monotonic()
    with (folder / 'output.txt').open('w', encoding='utf-8') as output:
        process = subprocess.Popen(
            [sys.executable, *module], stdout=output, stderr=subprocess.STDOUT, env=own
        )
        try:
            _watch(process, cell, state, screen)
        finally:
            process.terminate()
            process.wait()
    if process.returncode:
        lines = (folder / 'output.txt').read_text(encoding='utf-8').strip().splitlines()
        # After the error of a rank, torchrun prints a report that does not say what it was.
        errors = [line for line in lines if line.startswith(('error: ', '[rank')) and processes > 1]
        last = (errors or lines or [f'status {process.returncode}'])[-1].removeprefix('error: ')
        raise RuntimeError(f'run {cell.name} failed: {last} (see {folder}/output.txt)')
    outcome = json.loads((folder / 'outcome.json').read_text(encoding='utf-8'))
    return _result(spec, cell, outcome, time.monotonic() - begin)


def _watch(process: subprocess.Popen, cell: Cell, state: _State, screen: TextIO | None) -> None:
    live = screen is not None and screen.isatty()
    if screen is not None and not live:
        print(state.line(cell), file=screen, flush=True)
    while True:
        try:
            process.wait(timeout=1)
            break
        except subprocess.TimeoutExpired:
            if live:
                print(f'\r{state.line(cell)}\033[K', end='', file=screen, flush=True)
    if live:
        print(file=screen)


def _result(spec: Spec, cell: Cell, outcome: Mapping, seconds: float) -> Result:
    task, form = spec.tasks[cell.task], spec.forms[cell.form]
    evaluations = outcome['evaluations']
    assert cell.rate is not None
    last = evaluations[-1] if evaluations else {}
    return Result(
        task=cell.task,
        form=cell.form,
        weight_function=form.conv,
        norm=form.norm,
        images_per_step=cell.images_per_step,
        updates=cell.updates,
        rate=cell.rate,
        seed=cell.seed,
        metrics={k: float(v) for k, v in last.items() if k != 'iteration' and isinstance(v, Real)},
        curve=[[e['iteration'], e[task.metric]] for e in evaluations if task.metric in e],
        error=outcome['error'],
        seconds=round(seconds, 1),
        seconds_per_step=outcome['seconds_per_step'],
        peak_mib=outcome['peak_mib'],
        command=_command(spec, cell),
        versions=_versions(),
        threads=outcome['threads'],
        processes=form.processes,
    )


def _command(spec: Spec, cell: Cell) -> str:
    if spec.data is None:
        return f'python tools/study.py {_shown(spec.path)} --only {cell.name}'
    data = shlex.quote(_shown(spec.data))
    return f'python tools/study.py {_shown(spec.path)} --data {data} --only {cell.name}'


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return path.name


def _versions() -> dict[str, str]:
    found = {'python': platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
