"""Train and test a detector from a config."""

import functools
import logging
import os
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmws.checkpoints import (
    Checkpoint,
    CheckpointMismatchError,
    check_resumable,
    check_weights,
    find_intact,
    read_intact,
)
from mmws.checkpoints.classes import map_predictions, require_same_classes, require_weights
from mmws.checkpoints.guard import unwrap
from mmws.compat import CheckpointError, already_read
from mmws.compat.mmengine_private import loads_from
from mmws.config import load_config
from mmws.config.structure import ConfigError, check_structure
from mmws.config.tree import KeyPath, dotted, kind, rewrite, walk
from mmws.data.preflight import check_data, train_classes
from mmws.hooks.divergence import DivergenceError
from mmws.hooks.stop import StopHook, parse_duration
from mmws.hooks.validation_loss import validation_loss_loader

from .batch_arithmetic import count_accumulation
from .console import Console
from .distributed import check_launcher, finish_distributed, prepare_distributed
from .tta import enable_tta

StrPath = str | Path


def prepare(
    config: StrPath,
    *,
    checkpoint: StrPath | Checkpoint | None = None,
    work_dir: StrPath | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: str | None = None,
    cfg_options: dict | None = None,
    launcher: str = 'none',
    tta: bool = False,
    stop_after: str | None = None,
    max_skipped: int = 0,
    val_loss: bool = False,
) -> Config:
    """Return the config of one run, after checking all that can be checked before it starts.

    Args:
        config: As for :func:`mmws.config.load_config`.
        checkpoint: The checkpoint to test, or its path or URL; ``None`` when training.
        work_dir: Where logs and checkpoints go. Falls back to the config's ``work_dir``, then to
            ``work_dirs/<config name>``.
        amp: Train with automatic mixed precision (needs a GPU).
        auto_scale_lr: Scale the learning rate to the total batch size.
        resume: ``'auto'`` for the newest intact checkpoint in ``work_dir``, if there is one, or the
            path of a checkpoint. The optimizer continues with the learning rate of that checkpoint.
        cfg_options: As for :func:`mmws.config.load_config`.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        tta: Test with :func:`mmws.engine.tta.enable_tta`.
        stop_after: Time from the start of the process, ``'H:MM:SS'`` or seconds, after which the
            training is saved and stopped (:class:`mmws.hooks.StopHook`).
        max_skipped: How many updates in a row are skipped where the gradients are not finite,
            before training stops (:class:`mmws.hooks.DivergenceHook`).
        val_loss: Compute the loss on the validation split with every evaluation
            (:class:`mmws.hooks.ValidationLossHook`).

    Raises:
        FileNotFoundError: if the config or a checkpoint is missing.
        DataError: if data are missing or do not fit the config, with a line for each problem.
        OSError: if ``work_dir`` cannot be created.
        ValueError: if a checkpoint cannot be read, or an option cannot be carried out with this
            config or on this machine.
    """
    cfg = load_config(config, cfg_options)
    check_structure(cfg)
    cfg.launcher = launcher
    cfg.work_dir = str(work_dir or work_dir_of(config, cfg))

    if amp:
        if not torch.cuda.is_available():
            raise ValueError('`amp` needs a GPU, and this machine has none: leave it out')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ValueError(
                f'`auto_scale_lr` needs auto_scale_lr=dict(base_batch_size=...) in {config}'
            )
        cfg.auto_scale_lr.enable = True
    check_launcher(launcher)

    trained = checkpoint if isinstance(checkpoint, Checkpoint) else None
    if resume == 'auto':
        # A job that may be restarted always asks to resume; its first start has no checkpoint.
        found = find_intact(cfg.work_dir)
        for reason in found.skipped:
            print_log(f'not resumed from: {reason}', logger='current', level=logging.WARNING)
        resume, trained = str(found.path) if found.path else None, found.checkpoint
        if resume is None:
            print_log(f'nothing to resume in {cfg.work_dir}: training starts', logger='current')
    if resume is not None:
        cfg.resume, cfg.load_from = True, str(resume)
    if checkpoint is not None:
        cfg.load_from = trained.source if trained else str(checkpoint)
    load_from = cfg.get('load_from')
    if load_from and '://' not in load_from:
        if trained is None:
            trained = read_intact(load_from)
            if resume is not None:
                check_resumable(trained.contents, load_from)
        if not any(isinstance(value, torch.Tensor) for value in trained.weights.values()):
            raise CheckpointError(f'checkpoint {load_from} holds no weights in its state_dict')
        classes = train_classes(cfg) if resume is not None else None
        if classes is not None:
            require_same_classes(trained, classes)
    if checkpoint is None:
        for pretrained in _pretrained_files(cfg.get('model')):
            Checkpoint.read(pretrained)
        _add_hooks(cfg, stop_after, max_skipped)
        if val_loss:
            cfg.custom_hooks.append(dict(type='mmws.ValidationLossHook'))
            validation_loss_loader(cfg)  # refuses pipelines that it cannot use

    batch_size = (cfg.get('train_dataloader') or {}).get('batch_size', 1)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f'train_dataloader.batch_size must be at least 1, got {batch_size!r}')
    check_data(cfg, splits=('train', 'val') if checkpoint is None else ('test',))
    if tta:
        enable_tta(cfg)
    logger = (cfg.get('default_hooks') or {}).get('logger')
    if logger:
        # The log tells when an evaluation was: MMEngine writes step 0 otherwise, or the epoch.
        logger.setdefault('log_metric_by_epoch', False)
    os.makedirs(cfg.work_dir, exist_ok=True)
    return cfg


def work_dir_of(config: StrPath, cfg: Config) -> StrPath:
    """Return where a run writes to by its config, or by the name of the config's file."""
    return cfg.get('work_dir') or Path('work_dirs', Path(str(config)).stem)


def _pretrained_files(model: Any) -> 'Iterator[Path]':
    """Yield the local files that a model or a part of it loads pretrained weights from."""

    def unconverted(path: KeyPath, part: Any) -> Any:
        if not isinstance(part, dict) or part.get('type') != 'mmws.Converted':
            return part
        from mmws.surgery.converted import unconverted_config

        return unconverted_config(part)[0]

    for _, part in walk(rewrite(model, unconverted)):
        name = part.get('checkpoint') if kind(part) == 'Pretrained' else None
        if name and '://' not in name:
            yield Path(name).expanduser()


def train(cfg: Config, console: Console | None = None) -> Any:
    """Train as ``cfg`` says; return the trained model without its wrapper for parallel training.

    The hooks of :data:`TRAINING_HOOKS` are added where the config has them not, and
    ``CheckpointHook`` becomes :class:`mmws.hooks.DurableCheckpointHook`.

    Args:
        cfg: From :func:`prepare`.
        console: What the terminal shows; ``None`` for MMEngine's whole log.

    Raises:
        CheckpointMismatchError: if pretrained weights, or the checkpoint to resume from, were
            trained with other layers than the model's.
        CheckpointError: if a checkpoint cannot be read or resumed from.
        ConfigError: if MMEngine cannot build a part of the config, or if ``save_best`` names a
            metric that the validation does not give.
        DivergenceError: if the loss, a gradient or a weight is NaN or infinite.
        OSError: if a checkpoint cannot be written; those before it are kept.
        SystemExit: if a signal or the end of a time has stopped the training, when it is saved.
    """
    _add_hooks(cfg)
    runner = _build_runner(cfg, console, ('train_loop', 'val_loop'))
    count_accumulation(runner)
    # The wrapper for parallel training must not outlive the process group.
    try:
        with _building(runner):
            model = unwrap(runner.train())
    finally:
        _release_signals(runner)
        if console is not None:
            console.detach()
    del runner
    finish_distributed()
    return model


def _release_signals(runner: Runner) -> None:
    # MMEngine tells hooks of the end of a training only if it succeeds.
    for hook in runner.hooks:
        if isinstance(hook, StopHook):
            hook.release()


TRAINING_HOOKS = (
    'mmws.CheckpointRecordHook',
    'mmws.TrainingStepHook',
    'mmws.ExactResumeHook',
    'mmws.DataWorkersHook',
    'mmws.DivergenceHook',
    'mmws.StopHook',
)
"""What :func:`train` adds to ``custom_hooks``, without options."""

EVALUATION_HOOKS = ('mmws.TrainingStepHook', 'mmws.DataWorkersHook')
"""What :func:`evaluate` adds to ``custom_hooks``, without options."""


def _with_hooks(cfg: Config, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return copies of the custom hooks, and hooks of ``names`` that are not among them."""
    hooks = [dict(hook) for hook in cfg.get('custom_hooks') or []]
    present = {kind(hook) for hook in hooks}
    return hooks + [dict(type=name) for name in names if name.split('.')[1] not in present]


def _add_hooks(cfg: Config, stop_after: str | None = None, max_skipped: int = 0) -> None:
    hooks = _with_hooks(cfg, TRAINING_HOOKS)
    for hook in hooks:
        if kind(hook) == 'StopHook' and stop_after is not None:
            hook['stop_after'] = parse_duration(stop_after)
        if kind(hook) == 'DivergenceHook' and max_skipped:
            hook['max_skipped'] = max_skipped
    cfg.custom_hooks = hooks
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
    if checkpoint and kind(checkpoint) == 'CheckpointHook':
        checkpoint['type'] = 'mmws.DurableCheckpointHook'


def evaluate(
    cfg: Config,
    out: StrPath | None = None,
    console: Console | None = None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, float]:
    """Evaluate the checkpoint ``cfg.load_from`` on the test split.

    Args:
        cfg: From :func:`prepare` with a checkpoint.
        out: Write the raw predictions to this ``.pkl`` file as well.
        console: What the terminal shows; ``None`` for MMEngine's whole log.
        checkpoint: What ``cfg.load_from`` holds, if it was read already.

    Returns:
        The metrics, e.g. ``{'coco/bbox_mAP': 0.4, ...}``.

    Raises:
        CheckpointMismatchError: if the checkpoint is of another model, or was trained with other
            layers than the model's.
    """
    cfg.custom_hooks = _with_hooks(cfg, EVALUATION_HOOKS)
    runner = _build_runner(cfg, console, ('test_loop',))
    if checkpoint is None and '://' not in cfg.load_from:
        checkpoint = Checkpoint.read(cfg.load_from)
    if checkpoint is not None:
        model = unwrap(runner.model)
        check_weights(model, checkpoint.weights)
        require_weights(model, checkpoint)
        metainfo = getattr(runner.test_dataloader.dataset, 'metainfo', None) or {}
        classes = metainfo.get('classes')
        if classes is not None:
            map_predictions(model, checkpoint, classes)
        vars(runner)['load_or_resume'] = functools.partial(_load, runner, checkpoint)
    if out is not None:
        from mmdet.evaluation import DumpDetResults

        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=str(out)))
    try:
        with _building(runner):
            metrics = runner.test()
    finally:
        if console is not None:
            console.detach()
    del runner
    finish_distributed()
    return metrics


_OWN_ERRORS = (CheckpointError, CheckpointMismatchError, DivergenceError, ConfigError)


def _build_runner(cfg: Config, console: Console | None, loops: Sequence[str]) -> Runner:
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    setup_cache_size_limit_of_dynamo()
    prepare_distributed(cfg)
    try:
        if console is None:
            runner = _runner_of(cfg)
        else:
            with console.starting(lambda: _runner_of(cfg)) as runner:
                # The runner would build its data later, and pycocotools prints its progress.
                for name in loops:
                    getattr(runner, name)
    except _BUILD_ERRORS as error:
        raise _config_error(error, cfg) from error
    vars(runner)['load_or_resume'] = functools.partial(_load, runner)
    return runner


_BUILD_ERRORS = (AssertionError, AttributeError, LookupError, TypeError, ValueError)


def _config_error(error: Exception, cfg: Config) -> Exception:
    """Return the error to raise for one that occurred while parts of a config were built."""
    # What other packages raise is about the arguments that the config gives them; what mmws raises
    # is so if it is a ValueError, and else a bug.
    if _raised_in(error, 'mmws') and not isinstance(error, ValueError):
        return error
    reason = f'{type(error).__name__}: {" ".join(str(error).split())[:500]}'
    part = _part_being_built(error, cfg)
    return ConfigError(f'the config cannot be built: {f"{part}: " if part else ""}{reason}')


def _part_being_built(error: Exception, cfg: Config) -> str | None:
    """Return the innermost part of a config that was being built, as its ``type`` and key."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        if frame.f_globals.get('__name__') == 'mmengine.registry.build_functions':
            part = frame.f_locals.get('cfg')
            if isinstance(part, dict) and 'type' in part:
                name = getattr(part['type'], '__name__', str(part['type']))
                # Parts of a pipeline are the same in several splits: the first one is named.
                path = next((p for p, value in walk(cfg.to_dict()) if _is_like(value, part)), None)
                return f'{name} ({dotted(path)})' if path else name
    return None


def _is_like(value: Any, part: dict) -> bool:
    """Whether a value of a config became a part, to which MMEngine may have added arguments."""
    return (
        isinstance(value, dict)
        and 'type' in value
        and all(value[key] == part[key] for key in value.keys() & part.keys())
    )


@contextmanager
def _building(runner: Runner) -> Iterator[None]:
    """Turn errors into :class:`ConfigError` until all is built and the checkpoint is loaded.

    MMEngine's Runner builds loops, optimizer and schedules only when the training or test begins.
    """
    try:
        yield
    except _BUILD_ERRORS as error:
        if _is_built(runner) or isinstance(error, _OWN_ERRORS):
            raise
        raise _config_error(error, runner.cfg) from error


def _is_built(runner: Runner) -> bool:
    return 'load_or_resume' not in vars(runner)


def _load(runner: Runner, checkpoint: Checkpoint | None = None) -> None:
    """Load a checkpoint; what it holds decides what PyTorch and MMEngine raise meanwhile."""
    vars(runner).pop('load_or_resume')
    read = already_read(checkpoint.source, checkpoint.contents) if checkpoint else nullcontext()
    try:
        with read:
            runner.load_or_resume()
    except _OWN_ERRORS:
        raise
    except (*_BUILD_ERRORS, RuntimeError) as error:
        reason = f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
        raise CheckpointError(
            f'checkpoint {loads_from(runner)} cannot be loaded: {reason}'
        ) from error


def _runner_of(cfg: Config) -> Runner:
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def _raised_in(error: Exception, package: str) -> bool:
    """Whether an error was raised in a file of a package, not in what the package has called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get('__name__', '').split('.')[0] == package
