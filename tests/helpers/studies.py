"""Single runs of a study, without a process of their own."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from mmws.engine import prepare, train
from mmws.study import Cell, read_spec
from mmws.study.cell_config import write_cell_config


def train_cell(spec: Path, cell: Cell, folder: Path) -> nn.Module:
    """Train one cell of a study, write its log to ``folder``, and return the model."""
    config = write_cell_config(read_spec(spec), cell, folder)
    cfg = prepare(config, work_dir=folder)
    # MMEngine names a run by the second, and two of one name share a log.
    cfg.experiment_name = re.sub(r'\W', '_', str(folder))
    return train(cfg)
