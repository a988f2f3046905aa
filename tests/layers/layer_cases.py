"""Moved to tests/helpers; import it from there."""

from tests.helpers.layer_cases import *  # noqa: F403
