"""Train and test a detector from a config, with MMDetection's command-line options."""

from pathlib import Path
from typing import Any, Optional, Union

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmws.compat import read_config
from mmws.datasets.preflight import check_data

from .cfg_options import warn_about_typos
from .distributed import finish_distributed, local_rank_zero, prepare_distributed

StrPath = Union[str, Path]


def load_config(config: StrPath, cfg_options: Optional[dict] = None) -> Config:
    """Read a config file and put the command line's overrides into it.

    Args:
        config: Path of the file, or ``mmdet::folder/name.py``.
        cfg_options: Dotted keys and their values, as ``--cfg-options`` gives them. A key that
            looks like a typo of an existing one is named in a warning.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it cannot be read as a config.
    """
    cfg = read_config(config)
    if cfg_options:
        if local_rank_zero():
            warn_about_typos(cfg, cfg_options)
        try:
            cfg.merge_from_dict(cfg_options)
        except (KeyError, IndexError, TypeError, AssertionError) as error:
            raise ValueError(f'--cfg-options do not fit config {config}: {error}') from error
    return cfg


def prepare(
    config: StrPath,
    *,
    checkpoint: Optional[StrPath] = None,
    work_dir: Optional[StrPath] = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: Optional[str] = None,
    cfg_options: Optional[dict] = None,
    launcher: str = 'none',
) -> Config:
    """Make the config of one run and check all that can be checked before it.

    Args:
        config: As for :func:`load_config`.
        checkpoint: The checkpoint to test; ``None`` when training.
        work_dir: Where logs and checkpoints go. Falls back to the config's ``work_dir``, then to
            ``work_dirs/<config name>``.
        amp: Train with automatic mixed precision (needs a GPU).
        auto_scale_lr: Scale the learning rate to the total batch size.
        resume: ``'auto'`` for the last checkpoint in ``work_dir``, or a checkpoint's path.
        cfg_options: As for :func:`load_config`.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.

    Raises:
        FileNotFoundError: if the config, its data or a checkpoint is missing.
        ValueError: if an option cannot be carried out with this config or on this machine.
    """
    cfg = load_config(config, cfg_options)
    cfg.launcher = launcher
    cfg.work_dir = str(work_dir or cfg.get('work_dir') or Path('work_dirs', Path(str(config)).stem))

    if amp:
        if not torch.cuda.is_available():
            raise ValueError('--amp needs a GPU, and this machine has none: leave it out')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError(
                f'--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in {config}'
            )
        cfg.auto_scale_lr.enable = True

    if resume is not None:
        cfg.resume = True
        cfg.load_from = None if resume == 'auto' else resume
    if checkpoint is not None:
        cfg.load_from = str(checkpoint)
    _check_checkpoint(cfg.get('load_from'))

    check_data(cfg, splits=('train', 'val') if checkpoint is None else ('test',))
    return cfg


def train(cfg: Config) -> Any:
    """Train as ``cfg`` says; return the trained model."""
    model = _build_runner(cfg).train()
    finish_distributed()
    return model


def evaluate(cfg: Config, out: Optional[StrPath] = None) -> 'dict[str, float]':
    """Evaluate the checkpoint ``cfg.load_from`` on the test split.

    Args:
        cfg: From :func:`prepare` with a checkpoint.
        out: Write the raw predictions to this ``.pkl`` file as well.

    Returns:
        The metrics, e.g. ``{'coco/bbox_mAP': 0.4, ...}``.
    """
    runner = _build_runner(cfg)
    if out is not None:
        from mmdet.evaluation import DumpDetResults

        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=str(out)))
    metrics = runner.test()
    finish_distributed()
    return metrics


def _build_runner(cfg: Config) -> Runner:
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    setup_cache_size_limit_of_dynamo()
    prepare_distributed(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def _check_checkpoint(path: Optional[str]) -> None:
    is_local = path is not None and '://' not in path
    if is_local and not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
