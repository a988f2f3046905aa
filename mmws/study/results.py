"""The results of a study: one JSON line a run, in one file."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from mmengine.logging import print_log

from .spec import Cell, Spec, search_cells


@dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
        task: Name of the task.
        form: Name of the form of the layers.
        weight_function: As for :func:`mmws.convert`, None for plain weights.
        norm: As in :class:`mmws.study.spec.Form`.
        images_per_step: Images a step.
        updates: Steps of the optimizer.
        rate: Learning rate.
        seed: Seed.
        metrics: Of the last evaluation.
        curve: Pairs of updates and metric, one an evaluation.
        error: Why the training diverged; None if it did not.
        seconds: Duration of the process, in seconds.
        seconds_per_step: Median duration of a step, data loading included.
        peak_mib: The most memory that the process took, in MiB. If several trained together, it is
            that of the first.
        command: What repeats the run.
        versions: Of Python and the libraries.
        threads: Threads of PyTorch in each process.
        processes: Processes that trained together.
    """

    task: str
    form: str
    weight_function: str | None
    norm: str | None
    images_per_step: int
    updates: int
    rate: float
    seed: int
    metrics: Mapping[str, float]
    seconds: float
    command: str
    curve: list[list[float]] = field(default_factory=list)
    error: str | None = None
    seconds_per_step: float | None = None
    peak_mib: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    processes: int = 1

    @property
    def cell(self) -> Cell:
        """The cell of the study that this is the result of."""
        return Cell(self.task, self.form, self.images_per_step, self.updates, self.rate, self.seed)


def read_results(path: str | Path) -> dict[Cell, Result]:
    """Read a file of results; of two lines for a cell the later one counts.

    A line that a killed process left unfinished is passed over with a warning: its run is repeated.

    Raises:
        ValueError: if a line is no result.
    """
    path, results = Path(path), {}
    if not path.exists():
        return {}
    names = {f.name for f in fields(Result)}
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        try:
            content = json.loads(line)
        except ValueError:
            message = f'{path}:{number} is incomplete, so its run is repeated'
            print_log(message, logger='current', level=logging.WARNING)
            continue
        try:
            result = Result(**{k: v for k, v in content.items() if k in names})
        except (AttributeError, TypeError) as error:
            raise ValueError(f'{path}:{number} is no result of a study: {error}') from error
        results[result.cell] = result
    return results


def append_result(path: Path, result: Result) -> None:
    """Add a line to a file of results, which several processes may do at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(result)) + '\n'
    with path.open('a+b') as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b'\n':  # a killed process left a part of a line
                line = '\n' + line
        file.write(line.encode())  # at the end: `a` appends wherever the position is


def best_rates(spec: Spec, results: Mapping[Cell, Result]) -> dict[tuple[str, str], float | None]:
    """Return the learning rate at one image a step of each task and form.

    It is the one with the highest metric, and the lower one of two that are equal. A diverged run
    is lower than any other. None where a run of the search is missing, or all diverged.
    """
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in search_cells(spec):
        cells.setdefault((cell.task, cell.form), []).append(cell)
    best: dict[tuple[str, str], float | None] = {}
    for group, tried in cells.items():
        best[group] = None
        if all(cell in results for cell in tried):
            task = spec.tasks[group[0]]
            scores = [
                (value_of(results[cell], task.metric), -rate)
                for cell, rate in zip(tried, dict.fromkeys(task.rates), strict=True)
            ]
            score, rate = max(scores)
            best[group] = -rate if score > -math.inf else None
    return best


def value_of(result: Result, metric: str) -> float:
    """Return a metric of a run; minus infinity if the run diverged or has no such metric."""
    value = result.metrics.get(metric)
    return -math.inf if value is None or result.error else float(value)


def group_number(cell: Cell, cells: Iterable[Cell]) -> int:
    """Return which of the pairs of task and form a cell belongs to, from 0."""
    groups = list(dict.fromkeys((c.task, c.form) for c in cells))
    return groups.index((cell.task, cell.form))
