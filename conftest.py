"""What pytest needs before it collects tests/, README.md and docs/."""

import pytest
from mmengine.config import Config

import mmws  # noqa: F401  (before mmdet: it provides mmcv's ops)

# YAPF, by which MMEngine formats configs, writes a cache at its first use on a machine, and one
# process of pytest-xdist would read it while another is writing it.
Config().pretty_text  # noqa: B018

pytest.register_assert_rewrite('tests.helpers')

from tests.helpers.documents import document_tests

pytest_plugins = ['tests.helpers.fixtures', 'tests.helpers.documents']
pytest_collect_file = document_tests().pytest()


@pytest.fixture(scope='session', autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """Keep the checks of data sets from remembering what other runs of the tests found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMWS_CACHE_DIR', str(tmp_path_factory.mktemp('cache')))
        yield
