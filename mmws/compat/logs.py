"""Messages of mmws go through Python's logging; in a program of MMEngine they reach its log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType

LOGGER = logging.getLogger('mmws')


class _ToMMEngine(logging.Handler):
    """Hands records to MMEngine's current logger, which also writes the log file of a training."""

    def __init__(self, print_log: Callable[..., None]) -> None:
        super().__init__()
        self._print_log = print_log

    def emit(self, record: logging.LogRecord) -> None:
        self._print_log(record.getMessage(), logger='current', level=record.levelno)


def log_to_mmengine(module: ModuleType) -> None:
    """Hand the messages of mmws to MMEngine's logger.

    Args:
        module: ``mmengine.logging.logger``, which has just been imported.
    """
    if not any(isinstance(handler, _ToMMEngine) for handler in LOGGER.handlers):
        LOGGER.addHandler(_ToMMEngine(module.print_log))
