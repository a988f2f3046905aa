"""Short forms of the long runs whose counts stand in the documents."""

import json

import pytest

from tests.helpers.paths import TOOLS
from tests.helpers.processes import run_python

pytestmark = pytest.mark.e2e


def test_a_killed_training_ends_as_one_that_was_not_killed(tmp_path):
    results = tmp_path / 'results.jsonl'
    table = run_python(
        TOOLS / 'dev/kill_test.py', '--kills', 1, '--seed', 4, '--results', results, timeout=900
    )
    (result,) = map(json.loads, results.read_text().splitlines())
    assert result['passed']
    assert (result['orphans'], result['lost'], result['different']) == (0, [], 0)
    assert table.splitlines()[-1].startswith('| 1 | 1 |')


def test_mutated_inputs_are_read_or_refused_in_one_line(tmp_path):
    kinds = ['options', 'checkpoints', 'foreign_weights', 'archives', 'servers', 'images']
    output = run_python(
        '-m', 'tools.dev.fuzz', '--inputs', 8, '--seed', 7, '--kind', *kinds, timeout=900
    )
    header, _, *rows = [line.strip('| ').split(' | ') for line in output.splitlines()[-9:]]
    assert [row[0] for row in rows] == [*kinds, 'all']
    sums = dict(zip(header[1:], map(int, rows[-1][1:])))
    assert sums['read'] + sums['refused'] == 8 * len(kinds)
