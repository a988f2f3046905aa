"""Tools show what mmws says, and not what its libraries print and log beside it."""

from __future__ import annotations

import logging
import sys

import pytest
from mmengine.logging import MMLogger, print_log

from mmws.compat.logs import LOGGER
from mmws.engine.quiet import quiet_stack


def say_as(package: str, level: int, text: str) -> None:
    """Log as code of a package does."""
    exec('print_log(text, logger="current", level=level)', {
        '__name__': f'{package}.module', 'print_log': print_log, 'text': text, 'level': level,
    })  # fmt: skip


@pytest.fixture
def shown(monkeypatch):
    """The texts that reach the terminal by MMEngine's logger."""
    texts: list[str] = []

    class Terminal(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'handlers', [Terminal()])
    return texts


def test_the_stack_is_quiet_and_mmws_is_not(shown, capsys):
    # Bug: a warning of mmws is hidden, or a hundred lines of the stack hide the result.
    with quiet_stack():
        print('loading annotations into memory...')
        say_as('mmengine', logging.WARNING, 'Failed to search registry')
        say_as('mmdet', logging.INFO, 'Loads checkpoint')
        say_as('mmdet', logging.ERROR, 'an error')
        say_as('mmws', logging.WARNING, 'other classes')
        LOGGER.warning('weights are missing')
        print('progress', file=sys.stderr)
    assert shown == ['an error', 'other classes', 'weights are missing']
    assert capsys.readouterr() == ('', 'progress\n')


def test_afterwards_everything_is_shown_again(shown, capsys):
    # Bug: an error inside leaves the log of the process hidden.
    with pytest.raises(ValueError, match='wrong'), quiet_stack():
        raise ValueError('wrong')
    say_as('mmdet', logging.INFO, 'Loads checkpoint')
    print('result')
    assert shown == ['Loads checkpoint']
    assert capsys.readouterr().out == 'result\n'
