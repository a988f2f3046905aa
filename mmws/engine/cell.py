"""One run of a study: ``python -m mmws.engine.cell FOLDER PROCESSES`` trains ``FOLDER/config.py``.

The folder gets ``outcome.json``: the evaluations, the reason if the training diverged, the median
duration of a step in seconds, and the most memory of the process in MiB.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
from pathlib import Path
from typing import Any

from mmws.files import write_durably
from mmws.hooks import DivergenceError
from mmws.visualization.report import read_history

from .cli import RUN_ERRORS, one_line_errors
from .launch import run_torchrun, torchrun_arguments
from .run import prepare, train


def run_cell(folder: Path) -> dict[str, Any]:
    """Train ``folder/config.py`` and return the outcome."""
    launcher = 'pytorch' if 'RANK' in os.environ else 'none'
    cfg = prepare(folder / 'config.py', work_dir=folder, launcher=launcher)
    error = None
    try:
        train(cfg)
    except DivergenceError as diverged:
        error = str(diverged)
    try:
        history = read_history(folder)
    except FileNotFoundError:  # diverged before the first line of the log
        return dict(evaluations=[], error=error, seconds_per_step=None, peak_mib=_peak_mib())
    times = [record['time'] for record in history.train if 'time' in record]
    return dict(
        evaluations=history.evaluations,
        error=error,
        seconds_per_step=statistics.median(times) if times else None,
        peak_mib=_peak_mib(),
    )


def _peak_mib() -> float:
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return kibibytes / (2**20 if sys.platform == 'darwin' else 2**10)


def main() -> None:
    """Train the folder that the command line names, and write the outcome."""
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    if processes > 1 and 'RANK' not in os.environ:
        module = ['-m', 'mmws.engine.cell', *sys.argv[1:]]
        sys.exit(run_torchrun([*torchrun_arguments(processes), *module]))
    with one_line_errors(ValueError, ImportError, *RUN_ERRORS):
        outcome = run_cell(folder)
    if os.environ.get('RANK', '0') == '0':
        write_durably(folder / 'outcome.json', json.dumps(outcome).encode())


if __name__ == '__main__':
    main()
