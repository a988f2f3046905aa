"""How many images an update of the weights sees, and what follows for the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.runner import Runner
from mmengine.utils.dl_utils import has_batch_norm

from mmws.compat.mmengine_private import accumulated_steps
from mmws.hooks.image_order import images_per_update, run_facts


def count_accumulation(runner: Runner) -> None:
    """Have ``auto_scale_lr`` count the images of all accumulated steps, and log the arithmetic.

    MMEngine scales by images per process × processes. With gradients accumulated over N steps, an
    update sees N times as many images, and the linear rule (Goyal et al., 2017,
    https://arxiv.org/abs/1706.02677) asks for N times the rate.
    """
    scale_lr = runner.scale_lr

    def scale_and_log(optim_wrapper: Any, auto_scale_lr: Mapping[str, Any] | None = None) -> None:
        steps = accumulated_steps(optim_wrapper)
        scaled = dict(auto_scale_lr or {})
        base = scaled.get('base_batch_size')
        if base and scaled.get('enable'):
            scale_lr(optim_wrapper, {**scaled, 'base_batch_size': base / steps})
        lines = arithmetic(runner, optim_wrapper, base if scaled.get('enable') else None)
        runner.logger.info('; '.join(lines))
        if steps > 1 and has_batch_norm(runner.model):
            runner.logger.warning(
                'the model has Batch Normalization, whose statistics are those of the images of '
                'one step: accumulated steps are not one step with more images'
            )

    runner.scale_lr = scale_and_log


def arithmetic(runner: Runner, optim_wrapper: Any, base: int | None) -> tuple[str, str]:
    """Return two lines: images of an update and learning rate; length of the schedule in updates.

    Args:
        runner: With its training loop built.
        optim_wrapper: With the learning rate already scaled.
        base: Images that the learning rate of the config is meant for; None if it is not scaled.
    """
    facts = run_facts(runner, optim_wrapper)
    steps, update = facts['accumulated steps'], images_per_update(facts)
    groups = getattr(optim_wrapper, 'param_groups', None)
    # Several optimizers have a dict of groups, and a rate each.
    group = groups[0] if isinstance(groups, list) and groups else {}
    rate = group.get('initial_lr', group.get('lr'))  # that before the warm-up lowers it
    update_line = (
        f'{facts["images per process"]} image(s) x {facts["processes"]} process(es) x {steps} '
        f'accumulated step(s) = {update} image(s) per update'
    )
    if isinstance(rate, float):
        update_line += f'; learning rate {rate:g}'
        if base:
            update_line += f', that of the config for {base} images x {update / base:g}'
    iterations = runner.train_loop.max_iters
    length = (
        f'{iterations} iterations = {iterations // steps} updates = '
        f'{iterations * update / steps / max(facts["images in the data set"], 1):.3g} epochs'
    )
    warmup = _warmup(runner.cfg.get('param_scheduler'))
    if warmup:
        length += f'; warm-up {warmup} iterations = {warmup / steps:.3g} updates'
    return update_line, length


def _warmup(schedulers: Any) -> int | None:
    """Return the iterations of a linear or constant rise at the start, None if there is none."""
    for scheduler in schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]:
        if isinstance(scheduler, Mapping) and not scheduler.get('by_epoch', True):
            kind, end = str(scheduler.get('type')), scheduler.get('end')
            starts = scheduler.get('begin', 0) == 0 and scheduler.get('start_factor', 1) != 1
            if kind.rpartition('.')[2] in ('LinearLR', 'ConstantLR') and starts:
                return end if isinstance(end, int) else None
    return None
