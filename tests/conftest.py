import pytest

import mmws  # noqa: F401  (before mmdet: it provides mmcv's ops)

pytest.register_assert_rewrite('tests.helpers')
pytest_plugins = ['tests.helpers.fixtures']
