"""Moved to tests/helpers; import it from there."""

from tests.helpers.detection_cases import *  # noqa: F403
