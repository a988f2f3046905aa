"""The results of a study arranged by the blocks of its grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .results import Result, best_rates, value_of
from .spec import SEEDS_FOR_A_CLAIM, Block, Cell, Claim, Spec, Task, cells_of
from .statistics import Estimate, difference, estimate
from .sweeps import best_rate, find_sweep, largest_rates, rate_at_one_image

Results = Mapping[Cell, Result]


@dataclass(frozen=True)
class Table:
    """Blocks of a grid that belong together, such as one with further seeds or forms.

    Attributes:
        block: The first block; of a sweep, with one number of images a step.
        task: Its task.
        rows: By form and column, an estimate, or None for an empty cell; what is not in the grid is
            left out. Columns are the images a step; in a sweep, the learning rates at one image.
    """

    block: Block
    task: Task
    rows: dict[str, dict[float, Estimate | None]]

    @property
    def is_sweep(self) -> bool:
        """Whether columns are learning rates."""
        return self.block.rates is not None


def tables(spec: Spec, results: Results) -> list[Table]:
    """Return a table for the blocks of the grid that have task, updates and rates in common.

    Sweeps have a table for each number of images a step, and for the forms of each block.
    """
    best = best_rates(spec, results)
    alike: dict[tuple, list[Block]] = {}
    for block in spec.grid:
        for images in (None,) if block.rates is None else block.images_per_step:
            part = block if images is None else replace(block, images_per_step=(images,))
            forms = block.forms if block.rates else None
            key = block.task, forms, block.updates, block.rates, images
            alike.setdefault(key, []).append(part)
    found = []
    for blocks in alike.values():
        task = spec.tasks[blocks[0].task]
        rows: dict[str, dict[float, list[float]]] = {f: {} for b in blocks for f in b.forms}
        for cell in dict.fromkeys(c for block in blocks for c in cells_of(block, task, best)):
            column = _column(blocks[0], cell)
            if column is not None:
                values = rows[cell.form].setdefault(column, [])
                if cell in results:
                    values.append(value_of(results[cell], task.metric))
        estimates = {
            form: {column: estimate(values) for column, values in sorted(columns.items())}
            for form, columns in rows.items()
        }
        found.append(Table(blocks[0], task, estimates))
    return found


def _column(block: Block, cell: Cell) -> float | None:
    if block.rates is None:
        return cell.images_per_step
    return None if cell.rate is None else rate_at_one_image(cell)


def values_of(
    spec: Spec, results: Results, task: str, form: str, images: int, updates: int | None
) -> list[float]:
    """Return the metric of all seeds of one cell of the grid, without those not run yet."""
    best = best_rates(spec, results)
    updates = updates or max(1, spec.tasks[task].images // images)
    cells = {
        cell
        for block in spec.grid
        if block.task == task and block.rates is None and form in block.forms
        for cell in cells_of(block, spec.tasks[task], best)
        if (cell.form, cell.images_per_step, cell.updates) == (form, images, updates)
    }
    metric = spec.tasks[task].metric
    done = sorted((cell.seed, value_of(results[cell], metric)) for cell in cells if cell in results)
    return [value for _, value in done]


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        claim: The claim.
        better: What the claim says is higher, in words.
        than: The other, in words.
        difference: Between the two; None where runs are missing. For largest learning rates, that
            of their decimal logarithms.
        text: ``'yes'``, ``'no'``, ``'undecided'``, or ``'not run'`` (with how far it is).
    """

    claim: Claim
    better: str
    than: str
    difference: Estimate | None
    text: str


def verdicts(spec: Spec, results: Results) -> list[Verdict]:
    """Return the verdict on each claim: by the 95 % interval of the difference, or none."""
    return [_verdict(spec, results, claim) for claim in spec.claims]


def _verdict(spec: Spec, results: Results, claim: Claim) -> Verdict:
    side = dict(rule=_side, best=_side_at_best_rate, largest=_side_of_largest_rates)[claim.rate]
    sides = [side(spec, results, claim, *cell) for cell in (claim.better, claim.than)]
    (first, better), (second, than) = sides
    found = difference(first, second)
    if found is None or found.half_width is None:
        seeds = min(len(first), len(second))
        if seeds < SEEDS_FOR_A_CLAIM:
            text = f'not run ({seeds} of {SEEDS_FOR_A_CLAIM} seeds)'
        else:
            text = 'no rate trains' if claim.rate == 'largest' else 'a run diverged'
        return Verdict(claim, better, than, found, text)
    if found.mean - found.half_width > 0:
        text = 'yes'
    else:
        text = 'no' if found.mean + found.half_width < 0 else 'undecided'
    return Verdict(claim, better, than, found, text)


def _side_at_best_rate(
    spec: Spec, results: Results, claim: Claim, form: str, images: int | str
) -> tuple[list[float], str]:
    sweep = find_sweep(spec, results, claim.task, form, int(images))
    if sweep is None:
        return [], f'{form} at its best rate'
    rate = best_rate(sweep)
    return [*sweep[rate].values()], f'{form} at its best rate, {rate:g}'


def _side_of_largest_rates(
    spec: Spec, results: Results, claim: Claim, form: str, images: int | str
) -> tuple[list[float], str]:
    sweep = find_sweep(spec, results, claim.task, form, int(images))
    if sweep is None:
        return [], f'the largest rate of {form}'
    rates = largest_rates(sweep, spec.tasks[claim.task])
    tried = max(sweep)
    shown = ', '.join(f'≥ {r:g}' if r == tried else f'{r:g}' for r in sorted({*rates}))
    return [math.log10(r) if r else -math.inf for r in rates], f'the largest of {form}, {shown}'


def _side(
    spec: Spec, results: Results, claim: Claim, form: str, images: int | str
) -> tuple[list[float], str]:
    def at(images: int) -> list[float]:
        return values_of(spec, results, claim.task, form, images, claim.updates)

    if images != 'best':
        return at(int(images)), f'{form} at {images}'
    tried = {
        n: at(n)
        for block in spec.grid
        if block.task == claim.task and form in block.forms and block.rates is None
        for n in block.images_per_step
    }
    complete = {n: values for n, values in tried.items() if values}
    if len(complete) < len(tried):
        return [], f'{form} at its best'
    best = max(complete, key=lambda n: _mean(complete[n]))
    return complete[best], f'{form} at its best, {best}'


def _mean(values: list[float]) -> float:
    found = estimate(values)
    return -math.inf if found is None else found.mean
