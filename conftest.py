"""What pytest needs before it collects tests/, README.md and docs/."""

import pytest

# At its first import, YAPF, which MMEngine needs, writes a cache that one process of pytest-xdist
# would read while another is writing it.
import yapf  # noqa: F401

import mmws  # noqa: F401  (before mmdet: it provides mmcv's ops)

pytest.register_assert_rewrite('tests.helpers')

from tests.helpers.documents import document_tests

pytest_plugins = ['tests.helpers.fixtures']
pytest_collect_file = document_tests().pytest()


@pytest.fixture(scope='session', autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """Keep the checks of data sets from remembering what other runs of the tests found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMWS_CACHE_DIR', str(tmp_path_factory.mktemp('cache')))
        yield
