"""Trainings of other OpenMMLab packages, where these are installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mmws
from mmws.engine import prepare, train
from mmws.testing.compare import max_difference


def require_package(name: str) -> None:
    """Skip the test module unless a package of OpenMMLab is there and can register its models."""
    pytest.importorskip(name, reason=f'{name} is not installed')
    if name == 'mmpretrain':
        try:
            found = version('transformers')
        except PackageNotFoundError:
            return
        if int(found.partition('.')[0]) >= 5:
            pytest.skip(f'MMPretrain needs transformers<5 or none, not {found}', True)


def train_a_little(config: Path, work_dir: Path, **options: object) -> nn.Module:
    """Train as `tools/train.py config --cfg-options` does, and return the model.

    Names of options have two underscores in place of a dot.
    """
    cfg_options = {name.replace('__', '.'): value for name, value in options.items()}
    return train(prepare(config, work_dir=work_dir, cfg_options=cfg_options))


@torch.no_grad()
def folding_changes(model: nn.Module, *inputs: Tensor) -> float:
    """Fold a copy of a model; return how much its outputs change, relative to the largest.

    Fails unless the copy has plain layers alone.
    """
    model = model.double().eval()
    before = model(*(x.double() for x in inputs))
    folded = mmws.fold(model)
    assert not [m for m in folded.modules() if isinstance(m, mmws.layers.WeightFunctionMixin)]
    return max_difference(before, folded(*(x.double() for x in inputs)))
