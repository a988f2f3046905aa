"""What pytest needs before it collects tests/, README.md and docs/."""

import pytest

import mmws  # noqa: F401  (before mmdet: it provides mmcv's ops)

pytest.register_assert_rewrite('tests.helpers')

from tests.helpers.documents import document_tests

pytest_plugins = ['tests.helpers.fixtures']
pytest_collect_file = document_tests().pytest()
