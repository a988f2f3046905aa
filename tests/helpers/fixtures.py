"""Fixtures that tests of several folders use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., list[str]]]:
    """Return a function that lists what was logged about checkpoints.

    MMEngine's logger does not propagate to the root logger, where pytest listens, so listen there.
    What mmws logs reaches both; a line counts once. Pass other prefixes to list other lines.
    """
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda *prefixes: [
        record.getMessage()
        for record in caplog.records
        if record.name == logger.name and record.getMessage().startswith(prefixes or 'checkpoint ')
    ]
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope='module')
def mmdet_registered() -> None:
    """Register MMDetection's modules and make its scope the default one."""
    from mmdet.utils import register_all_modules

    register_all_modules()
