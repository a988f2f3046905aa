"""Moved to tests/helpers; import it from there."""

from tests.helpers.zoo_cases import *  # noqa: F403
