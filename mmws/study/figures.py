"""Charts of the tables of a study."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mmws.data.palette import OKABE_ITO
from mmws.files import replacing

from .statistics import Estimate
from .tables import Table

_MARKERS = 'osD^vPX'


def plot_table(table: Table, path: Path, colours: dict[str, int]) -> None:
    """Draw a metric over images a step, or over learning rates, one line for each form.

    Bars are 95 % intervals. A hollow marker stands for fewer than three seeds, which have none.

    Args:
        table: What to draw.
        path: ``.svg`` or ``.png``.
        colours: A number for each form, so that a form looks the same in all charts.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('charts need matplotlib: run `pip install "mmws[demo]"`') from None

    # Equal results make equal files: no random names and no date.
    with matplotlib.rc_context({'svg.hashsalt': 'mmws', 'svg.fonttype': 'none', 'font.size': 11}):
        figure = Figure(figsize=(7.2, 4.2), dpi=120, layout='constrained', facecolor='white')
        axis = figure.subplots()
        for place, (form, row) in enumerate(table.rows.items()):
            # Neighbours are moved apart by a few percent, so that their bars do not hide another.
            shift = 1.05 ** (place - (len(table.rows) - 1) / 2)
            _draw(axis, form, row, shift, colours[form])
        columns = sorted({column for row in table.rows.values() for column in row})
        axis.set_xscale('log', base=2)
        axis.set_xticks(columns, [f'{column:g}' for column in columns])
        axis.minorticks_off()
        unit = table.task.unit
        axis.set_xlabel(
            f'learning rate at 1 {unit} a step' if table.is_sweep else f'{unit}s per step'
        )
        axis.set_ylabel(table.task.metric)
        axis.set_ylim(bottom=table.task.floor)
        axis.grid(alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
        if axis.get_legend_handles_labels()[0]:  # none where no cell has enough seeds
            axis.legend(loc='center left', bbox_to_anchor=(1.0, 0.5), frameon=False)
        axis.set_title(_wrapped(table.task.title), loc='left', fontsize=11)
        metadata = {'Date': None} if path.suffix == '.svg' else None
        with replacing(path) as draft:
            figure.savefig(draft, metadata=metadata)


def _wrapped(title: str) -> str:
    middle = title.find(', ')
    return title if middle < 0 else f'{title[: middle + 1]}\n{title[middle + 2 :]}'


def _draw(
    axis: Any, form: str, row: dict[float, Estimate | None], shift: float, number: int
) -> None:
    points = [(c, e) for c, e in sorted(row.items()) if e is not None and math.isfinite(e.mean)]
    if not points:
        return
    colour, marker = OKABE_ITO[number % len(OKABE_ITO)], _MARKERS[number % len(_MARKERS)]
    x = [column * shift for column, _ in points]
    axis.plot(x, [e.mean for _, e in points], color=colour, linewidth=1.5, alpha=0.8)
    for place, (_, found) in zip(x, points, strict=True):
        axis.errorbar(
            [place],
            [found.mean],
            yerr=None if found.half_width is None else [found.half_width],
            color=colour,
            marker=marker,
            markersize=7,
            markerfacecolor='white' if found.half_width is None else colour,
            capsize=3,
            linestyle='none',
        )
    axis.plot([], [], color=colour, marker=marker, markersize=7, label=form)
