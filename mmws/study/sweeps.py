"""What the sweeps of a study say: the best learning rate of a form, and the largest that trains."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from .results import Result, value_of
from .spec import Cell, Spec, Task, cells_of, is_sweep_of

GOOD = 0.95  # of the best value: what a learning rate has to reach to count as one that works

Sweep = Mapping[float, Mapping[int, float]]
"""Learning rate at one image a step -> seed -> metric."""


def works(value: float, best: float, task: Task) -> bool:
    """Return whether a value is about as good as the best, counted from that of no training."""
    return value - task.floor >= GOOD * (best - task.floor)


def rate_at_one_image(cell: Cell) -> float:
    """Return the learning rate of a run divided by its images a step, as the grid gives it.

    Raises:
        ValueError: if the run has no learning rate yet.
    """
    if cell.rate is None:
        raise ValueError(f'the learning rate of {cell.task}, {cell.form} is not known yet')
    return float(f'{cell.rate / cell.images_per_step:.6g}')


def find_sweep(
    spec: Spec, results: Mapping[Cell, Result], task: str, form: str, images: int
) -> Sweep | None:
    """Return the runs of a form in the sweeps of a task, None while any of them is missing."""
    found: dict[float, dict[int, float]] = {}
    for block in spec.grid:
        if not is_sweep_of(block, task, form, images):
            continue
        for cell in cells_of(block, spec.tasks[task], {}):
            if (cell.form, cell.images_per_step) == (form, images):
                if cell not in results:
                    return None
                value = value_of(results[cell], spec.tasks[task].metric)
                found.setdefault(rate_at_one_image(cell), {})[cell.seed] = value
    return found or None


def best_rate(sweep: Sweep) -> float:
    """Return the rate with the highest mean over seeds, the lowest of several."""
    return max(sorted(sweep), key=lambda rate: statistics.fmean(sweep[rate].values()))


def largest_rates(sweep: Sweep, task: Task) -> list[float]:
    """Return the largest rate that works for each seed, by comparison with the seed's best run.

    A seed whose best run is not above the value of no training has the rate 0.
    """
    rates = []
    for seed in sorted({seed for values in sweep.values() for seed in values}):
        tried = {rate: values[seed] for rate, values in sweep.items() if seed in values}
        best = max(tried.values())
        good = [rate for rate, value in tried.items() if works(value, best, task)]
        rates.append(max(good) if math.isfinite(best) and best > task.floor else 0.0)
    return rates
