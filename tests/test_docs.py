"""The pages of the site name things that exist, and every page is in its navigation."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from tests.helpers.paths import ROOT

DOCS = ROOT / 'docs'
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob('*.md'))
API = [page for page in PAGES if page.startswith('api/') and page != 'api/index.md']
# A name after `:::`, or a member of the module after it.
_ENTRY = re.compile(r'^::: (?P<name>[\w.]+)$|^ {8}- (?P<member>\w+)$', re.MULTILINE)


@pytest.mark.parametrize('page', API)
def test_the_api_lists_what_exists(page):
    # Bug: mkdocstrings leaves out a member that was renamed, without a warning.
    module = None
    for entry in _ENTRY.finditer((DOCS / page).read_text(encoding='utf-8')):
        if entry['name']:
            name = entry['name']
            first, _, last = name.rpartition('.')
            module = getattr(import_module(first), last, None) or import_module(name)
        else:
            assert hasattr(module, entry['member']), f'{name}.{entry["member"]}'
    assert module is not None


def test_every_page_is_in_the_navigation():
    # Bug: a page that nobody finds. `make docs` notices it too, in a minute.
    text = (ROOT / 'mkdocs.yml').read_text(encoding='utf-8')
    listed = re.findall(r'^ +- (?:[\w ]+: )?(\S+\.md)$', text, re.MULTILINE)
    assert sorted(listed) == PAGES
