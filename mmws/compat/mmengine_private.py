"""What mmws needs of MMEngine that has no public name there, each with a fallback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
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


def swaps_channels(preprocessor: nn.Module | None) -> bool:
    """Return whether a data preprocessor turns BGR images into RGB, or RGB into BGR.

    Args:
        preprocessor: A preprocessor of MMEngine; others have no such setting and swap nothing.
    """
    return bool(getattr(preprocessor, '_channel_conversion', False))
