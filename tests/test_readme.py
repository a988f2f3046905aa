"""The first page says only what the repository can show."""

from __future__ import annotations

import re

import pytest

from tests.helpers.paths import ROOT

README = (ROOT / 'README.md').read_text(encoding='utf-8')
# A row of the table of results: what, images a step, figures, who measured them.
ROWS = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in README.splitlines()
    if re.match(r'\| .*\| (MMDetection|the authors of WS|measured here)[^|]*\|$', line)
]


def test_it_stays_short():
    # Bug: the first page grows until nobody finds how to begin; the rest belongs on the site.
    assert README.count('\n') <= 160
    assert README.index('## Install') < README.index('## Use') < README.index('## Read on')


@pytest.mark.parametrize('target', sorted(set(re.findall(r'\]\((?!http)([^)]+)\)', README))))
def test_its_links_lead_somewhere(target):
    # Bug: a page of the site is renamed, and the first page sends readers nowhere.
    file, _, anchor = target.partition('#')
    path = ROOT / file
    assert path.exists()
    if anchor:
        headings = re.findall(r'^#+ (.*)$', path.read_text(encoding='utf-8'), re.MULTILINE)
        assert anchor in {
            re.sub(r'[^\w\- ]', '', h).strip().lower().replace(' ', '-') for h in headings
        }


def test_every_figure_is_in_the_page_that_it_comes_from():
    # Bug: a figure that nobody published, or that the report on the claims no longer has.
    assert len(ROWS) == 6
    pages = {
        'MMDetection': ROOT / 'docs' / 'model_zoo.md',
        'the authors of WS': ROOT / 'docs' / 'model_zoo.md',
        'measured here': ROOT / 'docs' / 'reports' / 'claims.md',
    }
    for *_, figures, source in ROWS:
        name = next(name for name in pages if source.startswith(name))
        assert figures in pages[name].read_text(encoding='utf-8'), (figures, name)
