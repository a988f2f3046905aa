"""One run of a study: ``python -m mmws.engine.cell FOLDER PROCESSES PARENT``.

It trains ``FOLDER/config.py``, and ends when its parent, the process of this id, ends.
The folder gets ``outcome.json``: the evaluations, the reason if the training diverged, the median
duration of a step in seconds, the most memory of the process in MiB, and its threads. Several
processes train together, under torchrun, whose ranks run this module again.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmws.compat.processes import end_with_parent, peak_mib
from mmws.files import write_durably
from mmws.hooks import DivergenceError
from mmws.visualization.report import History, read_history

from .cli import RUN_ERRORS, one_line_errors
from .distributed import check_process_count
from .launch import run_module
from .run import prepare, train

OUTCOME = 'outcome.json'


def run_cell(folder: Path, launcher: str) -> dict[str, Any]:
    """Train ``folder/config.py`` and return the outcome."""
    cfg = prepare(folder / 'config.py', work_dir=folder, launcher=launcher)
    error = None
    try:
        train(cfg)
    except DivergenceError as diverged:
        error = str(diverged)
    try:
        history = read_history(folder)
    except FileNotFoundError:  # diverged before the first line of the log
        history = History([], [])
    times = [record['time'] for record in history.train if 'time' in record]
    return dict(
        evaluations=history.evaluations,
        error=error,
        seconds_per_step=statistics.median(times) if times else None,
        peak_mib=peak_mib(),
        threads=torch.get_num_threads(),
    )


def train_together(folder: Path, processes: int) -> int:
    """Let so many ranks run this module, and return the exit status."""
    check_process_count(processes)
    Config().pretty_text  # noqa: B018  (see mmws.engine.launch: YAPF writes its cache now)
    outcome = folder / OUTCOME
    outcome.unlink(missing_ok=True)
    arguments = [str(folder), str(processes), str(os.getpid())]
    status = run_module(processes, 'mmws.engine.cell', *arguments)
    diverged = outcome.exists() and json.loads(outcome.read_text())['error']
    return 0 if diverged else status


def main() -> None:
    """Train the folder that the command line names, and write the outcome."""
    folder, processes, parent = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    end_with_parent(parent)
    rank = int(os.environ['RANK']) if processes > 1 and 'RANK' in os.environ else None
    with one_line_errors(ValueError, ImportError, *RUN_ERRORS):
        if processes > 1 and rank is None:
            sys.exit(train_together(folder, processes))
        outcome = run_cell(folder, 'none' if rank is None else 'pytorch')
    if outcome['error'] or not rank:
        write_durably(folder / OUTCOME, json.dumps(outcome).encode())
    if outcome['error'] and rank is not None:
        sys.exit(1)  # torchrun ends the other ranks, which may wait for this one


if __name__ == '__main__':
    main()
