"""What mmws needs of MMEngine and of PyTorch's loader that has no public name there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner


def is_resuming(runner: Runner) -> bool:
    """Return whether a runner goes on with a training; from its config if the attribute is gone."""
    return bool(getattr(runner, '_resume', runner.cfg.get('resume', False)))


def loads_from(runner: Runner) -> str | None:
    """Return the checkpoint that a runner loads or resumes from, None if it starts without one.

    On ``resume='auto'`` MMEngine sets the attribute to the checkpoint that it finds. The fallback,
    the config, names only a checkpoint that the user gave.
    """
    return getattr(runner, '_load_from', runner.cfg.get('load_from')) or None


def resume_from(runner: Runner, path: str) -> None:
    """Have a runner, which is about to resume, go on from this checkpoint.

    Without the attribute MMEngine would resume from the file that ``last_checkpoint`` names.
    """
    runner._load_from = path


def restart_workers(loader: DataLoader) -> None:
    """Have a loader forget its persistent workers, which end, and start others when iterated."""
    if getattr(loader, '_iterator', None) is not None:
        loader._iterator = None


def accumulated_steps(optim_wrapper: Any) -> int:
    """Return over how many steps gradients are accumulated; 1 if the wrapper does not say.

    Of several wrappers in a dict it is the largest number.
    """
    wrappers = inner_wrappers(optim_wrapper)
    return max(
        (int(getattr(wrapper, '_accumulative_counts', 1)) for wrapper in wrappers), default=1
    )


def inner_wrappers(optim_wrapper: Any) -> list[Any]:
    """Return the wrappers of an ``OptimWrapperDict``, or the wrapper alone that is no dict."""
    wrappers = getattr(optim_wrapper, 'optim_wrappers', None)
    return list(wrappers.values()) if isinstance(wrappers, dict) else [optim_wrapper]


def step_counts(optim_wrapper: Any) -> list[int]:
    """Return how many steps each wrapper of an ``OptimWrapperDict`` has counted; else no numbers.

    MMEngine sets the number of a single wrapper when it resumes, and those of a dict never.
    """
    if inner_wrappers(optim_wrapper) == [optim_wrapper]:
        return []
    return [int(getattr(w, '_inner_count', 0)) for w in inner_wrappers(optim_wrapper)]


def set_step_counts(optim_wrapper: Any, counts: list[int]) -> None:
    """Have the wrappers go on from numbers that :func:`step_counts` returned."""
    for wrapper, count in zip(inner_wrappers(optim_wrapper), counts):
        wrapper._inner_count = count


@contextmanager
def config_text_unformatted(cfg: Config) -> Iterator[None]:
    """Have ``cfg.pretty_text`` give Python in long lines, without half a second of formatting.

    Without the attribute the text is formatted, which is slow but no less right.
    """
    before = vars(cfg).get('_format_python_code')
    if before:
        vars(cfg)['_format_python_code'] = False
    try:
        yield
    finally:
        if before:
            vars(cfg)['_format_python_code'] = before


def swaps_channels(preprocessor: nn.Module | None) -> bool:
    """Return whether a data preprocessor turns BGR images into RGB, or RGB into BGR.

    Args:
        preprocessor: A preprocessor of MMEngine, or MMPretrain's, which has a setting of its own;
            others have no such setting and swap nothing.
    """
    setting = getattr(preprocessor, 'to_rgb', False)
    return bool(getattr(preprocessor, '_channel_conversion', setting))
