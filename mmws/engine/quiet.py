"""What the libraries say that is no news to the user of a tool."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator

from mmengine.logging import MMLogger

STACK = {'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'torch', 'torchvision'}
"""Packages whose messages below errors are no news."""

_PASSES_ON = ('logging', 'mmengine.logging', 'mmws.compat.logs', 'mmws.engine.console', __name__)


@contextlib.contextmanager
def quiet_stack() -> Iterator[None]:
    """Hide what is printed, and what the stack logs below errors; messages of mmws are shown.

    A tool prints its own results afterwards.
    """
    logger = MMLogger.get_current_instance()  # made now, it writes to the real standard output
    handlers = logger.handlers[:]
    for handler in handlers:
        handler.addFilter(_is_news)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or logged_by() not in STACK


def logged_by() -> str:
    """Return the package whose code has logged what is being handled."""
    frame = sys._getframe()
    while frame.f_back is not None:
        name = frame.f_globals.get('__name__', '')
        if not name.startswith(_PASSES_ON):
            return name.partition('.')[0]
        frame = frame.f_back
    return ''
