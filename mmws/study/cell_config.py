"""The config of one run of a study, an ordinary config of MMEngine."""

from __future__ import annotations

from pathlib import Path

from .spec import Cell, Spec

# One schedule for all runs: a warm-up over this part of the updates, then a cosine.
WARMUP = 0.075

_TEXT = '''r"""One run of a study: {name}."""

_base_ = {base!r}

model = dict(
    _delete_=True,
    type='mmws.InForm',
    model={{{{_base_.model}}}},
    conv={conv!r},
    norm={norm!r},
)
custom_hooks = {hooks!r}
randomness = dict(seed={seed})
train_dataloader = dict(batch_size={images}, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters={updates}, val_interval={interval}
)
optim_wrapper = dict(optimizer=dict(lr={rate!r}))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end={warmup}),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin={warmup},
        end={updates},
        T_max={decay},
        eta_min_ratio=0.01,
    ),
]
auto_scale_lr = dict(enable=False)
log_processor = dict(by_epoch=False, window_size=20)
default_hooks = dict(logger=dict(type='LoggerHook', interval={log}), checkpoint=None)
'''


def cell_config(spec: Spec, cell: Cell) -> str:
    """Return the config of a run as Python text.

    Everything but the layers, the images a step, the number of updates, the learning rate and the
    seed is that of the task, for all runs alike.
    """
    task, form = spec.tasks[cell.task], spec.forms[cell.form]
    warmup = max(2, round(WARMUP * cell.updates))  # MMEngine warms up in two steps at least
    return _TEXT.format(
        name=cell.name,
        base=config_path(spec, form.config or task.config),
        conv=form.conv,
        norm=form.norm,
        hooks=[dict(type='mmws.WeightNormInitHook')] if form.init else [],
        seed=cell.seed,
        images=cell.images_per_step // form.processes,
        updates=cell.updates,
        interval=max(1, cell.updates // task.evaluations),
        rate=cell.rate,
        warmup=warmup,
        decay=max(1, cell.updates - warmup),
        log=max(1, min(50, cell.updates // 4)),
    )


def config_path(spec: Spec, config: str) -> str:
    """Return where a config lies that the file of a study names."""
    if '::' in config:
        return config
    return str((spec.path.parent / config).resolve())


def write_cell_config(spec: Spec, cell: Cell, folder: Path) -> Path:
    """Write the config of a run to ``folder/config.py``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'config.py'
    path.write_text(cell_config(spec, cell), encoding='utf-8')
    return path
