"""The report of a study: tables and charts, made from the results file alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmws.files import replacing

from .figures import plot_table
from .results import Result, best_rates, read_results, value_of
from .spec import Cell, Spec, all_cells, search_cells
from .statistics import Estimate
from .sweeps import GOOD, works
from .tables import Table, Verdict, tables, verdicts

_EMPTY = '–'


def write_report(spec: Spec, results_file: str | Path, page: str | Path | None = None) -> Path:
    """Write a page with the verdicts, tables and charts of a study.

    Args:
        spec: The study.
        results_file: JSON lines, from :func:`mmws.study.run_study`.
        page: Markdown file to write; by default beside the results, with their name. Charts go
            into the folder of this name without the suffix.

    Returns:
        The page.

    Raises:
        FileNotFoundError: if there are no results.
        ImportError: if matplotlib or scipy is not installed.
    """
    results_file = Path(results_file)
    if not results_file.exists():
        raise FileNotFoundError(f'{results_file} does not exist: run the study first')
    results = read_results(results_file)
    page = Path(page) if page else results_file.with_suffix('.md')
    colours = {form: number for number, form in enumerate(spec.forms)}
    lines = [*_head(spec, results, results_file), *_verdicts(spec, results)]
    for number, table in enumerate(tables(spec, results)):
        lines += [*_table(table), '']
        if any(cell is not None for row in table.rows.values() for cell in row.values()):
            chart = page.with_suffix('') / f'{number + 1}_{table.block.task}.svg'
            plot_table(table, chart, colours)
            lines += [f'![{_caption(table)}]({chart.parent.name}/{chart.name})', '']
    lines += [*_rates(spec, results), *_cost(spec, results)]
    with replacing(page) as draft:
        draft.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return page


def _head(spec: Spec, results: Mapping[Cell, Result], results_file: Path) -> Iterator[str]:
    cells = all_cells(spec, best_rates(spec, results))
    done = [results[cell] for cell in cells if cell in results]
    hours = sum(result.seconds for result in done) / 3600
    versions = sorted({f'{k} {v}' for r in done for k, v in r.versions.items()})
    threads = sorted({r.threads for r in done if r.threads})
    command = f'python tools/study.py {_place(spec.path)}'
    with_data = f'python tools/study.py {_place(spec.path)} --data '
    if any(result.command.startswith(with_data) for result in done):
        command = f'{with_data}DATA'
    yield from (f'# {spec.title}', '', *([spec.about, ''] if spec.about else []))
    yield from ('Made by', '', '```bash')
    yield command
    yield f'python tools/study.py {_place(spec.path)} --report'
    yield from ('```', '')
    yield (
        f'The first command goes on where it was interrupted. **{len(done)} of {len(cells)} runs '
        f'are done**, in {hours:.1f} hours of a CPU with {", ".join(map(str, threads)) or "–"} '
        f'thread(s) for each run; [{results_file.name}]({results_file.name}) has a line for each, '
        'with its versions, seed, command and duration.'
    )
    yield from ('', f'Versions: {", ".join(versions)}.', '')
    yield (
        "A number is the mean over seeds ± half of its 95 % confidence interval (Student's t). "
        f'{_EMPTY} is an empty cell: not run yet. A number in parentheses comes from fewer than '
        'three seeds: it has no interval and supports no claim.'
    )
    yield ''


def _place(path: Path) -> str:
    return f'configs/study/{path.name}'


def _verdicts(spec: Spec, results: Mapping[Cell, Result]) -> Iterator[str]:
    if not spec.claims:
        return
    yield from ('## The claims', '')
    yield (
        '"Yes" and "no" need the whole interval of the difference (Welch) on one side of 0; '
        'otherwise the claim is undecided by these runs. The cell at its best is chosen by the '
        'same runs, which favours it a little.'
    )
    if any(claim.rate == 'largest' for claim in spec.claims):
        yield ''
        yield (
            'The largest rate is, for each seed, the largest of a sweep that reaches '
            f'{100 * GOOD:.0f} % of what the best reaches; ≥ marks the largest that was tried. The '
            'difference is that of decimal logarithms: +0.5 means three times the rate.'
        )
    yield from ('', '| claim | source | compared | difference | seen here |')
    yield '| --- | --- | --- | ---: | --- |'
    for verdict in verdicts(spec, results):
        yield _verdict_row(spec, verdict)
    yield ''


def _verdict_row(spec: Spec, verdict: Verdict) -> str:
    claim = verdict.claim
    updates = f', {claim.updates} updates' if claim.updates else ''
    compared = f'{claim.task}{updates}: {verdict.better} less {verdict.than}'
    return (
        f'| {claim.text} | {claim.source} | {compared} | {_cell(verdict.difference, sign=True)} | '
        f'{verdict.text} |'
    )


def _caption(table: Table) -> str:
    unit, block = table.task.unit, table.block
    if table.is_sweep:
        return f'{table.task.title}: {table.task.metric} over learning rates'
    if block.updates is not None:
        return f'{table.task.title}: equal updates, {block.updates} in each run'
    return f'{table.task.title}: equal {unit}s seen, {table.task.images} in each run'


def _table(table: Table) -> Iterator[str]:
    columns = sorted({column for row in table.rows.values() for column in row})
    yield from (f'## {_caption(table)}', '')
    if table.is_sweep:
        unit, images = table.task.unit, table.block.images_per_step[0]
        yield f'{table.task.metric} by learning rate, given for 1 {unit} a step; {images} a step.'
    else:
        yield f'{table.task.metric} by {table.task.unit}s per step.{_seeds(table)}'
    yield from ('', f'| | {" | ".join(f"{column:g}" for column in columns)} |')
    yield '| --- |' + ' ---: |' * len(columns)
    for form, row in table.rows.items():
        cells = (_cell(row[column]) if column in row else '' for column in columns)
        yield f'| {form} | ' + ' | '.join(cells) + ' |'
    if table.is_sweep:
        yield from ('', *_widths(table))


def _seeds(table: Table) -> str:
    """Say how many seeds the cells of each column have, unless all cells have as many."""
    counts: dict[float, set[int]] = {}
    for row in table.rows.values():
        for column, cell in row.items():
            counts.setdefault(column, set()).add(0 if cell is None else cell.count)
    if len(set().union(*counts.values())) < 2:
        return ''
    ranges = {column: '-'.join(map(str, sorted({min(c), max(c)}))) for column, c in counts.items()}
    return ' Seeds: ' + ', '.join(f'{ranges[c]} at {c:g}' for c in sorted(ranges)) + '.'


def _widths(table: Table) -> Iterator[str]:
    """Yield how far apart the learning rates are that train a form about as well as its best."""
    for form, row in table.rows.items():
        means = {rate: e.mean for rate, e in row.items() if e is not None}
        if len(means) == len(row) and math.isfinite(best := max(means.values())):
            if best <= table.task.floor:
                yield f'- {form}: no rate trains'
                continue
            good = [rate for rate, mean in means.items() if works(mean, best, table.task)]
            floor = table.task.floor
            way = f'the way from {floor:g} to ' if floor else ''
            yield (
                f'- {form}: at least {100 * GOOD:.0f} % of {way}its best mean, {best:.3f}, with '
                f'rates from {min(good):g} to {max(good):g}'
            )


def _cell(found: Estimate | None, sign: bool = False) -> str:
    if found is None:
        return _EMPTY
    if not math.isfinite(found.mean):
        return 'diverged'
    mean = f'{found.mean:+.3f}' if sign else f'{found.mean:.3f}'
    if found.half_width is None:
        return f'({mean})'
    return f'{mean} ± {found.half_width:.3f}'


def _rates(spec: Spec, results: Mapping[Cell, Result]) -> Iterator[str]:
    cells = search_cells(spec)
    if not cells:
        return
    best = best_rates(spec, results)
    yield from ('## Learning rates', '')
    yield (
        'One rule for all: each form trains with these rates, given for 1 example a step, on one '
        'seed, at 1 example a step where the table names no other number, and takes the best '
        '(bold). At n examples a step the rate is n times as large. The run that won is also a '
        'seed of its cell, for every form alike.'
    )
    for task in dict.fromkeys(cell.task for cell in cells):
        rates = list(dict.fromkeys(spec.tasks[task].rates))
        yield from ('', f'| {task} | {" | ".join(f"{rate:g}" for rate in rates)} |')
        yield '| --- |' + ' ---: |' * len(rates)
        for form in dict.fromkeys(cell.form for cell in cells if cell.task == task):
            row = []
            tried = [c for c in cells if (c.task, c.form) == (task, form)]
            for cell, rate in zip(tried, rates, strict=True):
                text = _EMPTY
                if cell in results:
                    value = value_of(results[cell], spec.tasks[task].metric)
                    text = 'diverged' if math.isinf(value) else f'{value:.3f}'
                row.append(f'**{text}**' if rate == best[task, form] else text)
            images = tried[0].images_per_step
            at = f', {images} a step' if images > 1 else ''
            yield f'| {form}{at} | ' + ' | '.join(row) + ' |'
    yield ''


def _cost(spec: Spec, results: Mapping[Cell, Result]) -> Iterator[str]:
    yield from ('## Time and memory', '')
    yield (
        'Medians over the runs: milliseconds of a step, and the most memory of the process in MiB, '
        'libraries included. Runs share the machine with others, so small differences mean nothing.'
    )
    done: dict[tuple[str, int], dict[str, list[Result]]] = {}
    for result in results.values():
        group = done.setdefault((result.task, result.images_per_step), {})
        group.setdefault(result.form, []).append(result)
    yield from ('', '| task | per step | form | ms | MiB |', '| --- | ---: | --- | ---: | ---: |')
    for (task, images), forms in sorted(done.items()):
        for form in (form for form in spec.forms if form in forms):
            times = [1000 * r.seconds_per_step for r in forms[form] if r.seconds_per_step]
            peaks = [r.peak_mib for r in forms[form] if r.peak_mib]
            yield (f'| {task} | {images} | {form} | {_median(times):.1f} | {_median(peaks):.0f} |')


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else math.nan
