"""Sweeps of learning rates: the best rate, the largest that works, and verdicts on both."""

from __future__ import annotations

import math
import re

import pytest

from mmws.study import Result, read_spec, write_report
from mmws.study.results import append_result
from mmws.study.spec import Task, all_cells
from mmws.study.sweeps import best_rate, largest_rates, rate_at_one_image
from mmws.study.tables import tables, verdicts

SPEC = """
title = 'Sweeps'
tasks = dict(
    bounds=dict(
        title='Bounds, small', config='none.py', metric='elbo', images=40, rates=(0.1,),
        floor=-100.0,
    )
)
forms = {'WN': dict(conv='WN', norm=None), 'neither': dict(norm=None)}
grid = [
    dict(
        task='bounds', forms=tuple(forms), images_per_step=(4,), rates=(0.01, 0.1, 1.0),
    )
]
claims = [
    dict(text=rate, task='bounds', better=('WN', 4), than=('neither', 4), rate=rate)
    for rate in ('best', 'largest')
]
"""
# Metric at rates 0.01, 0.1 and 1; by form.
VALUES = {'WN': (-60.0, -52.0, -50.0), 'neither': (-70.0, -60.0, -99.0)}


@pytest.fixture
def spec(tmp_path):
    (tmp_path / 'spec.py').write_text(SPEC)
    return read_spec(tmp_path / 'spec.py')


def results_of(spec, values=VALUES, diverged=()):
    found = {}
    for cell in all_cells(spec, {}):
        if cell.rate is None or cell.images_per_step != 4:
            continue
        number = (0.01, 0.1, 1.0).index(rate_at_one_image(cell))
        value = values[cell.form][number] + 0.01 * cell.seed
        error = 'loss nan' if (cell.form, number, cell.seed) in diverged else None
        found[cell] = Result(
            task=cell.task, form=cell.form, weight_function=None, norm=None,
            images_per_step=4, updates=cell.updates, rate=cell.rate, seed=cell.seed,
            metrics={} if error else {'elbo': value}, seconds=1.0, command='', error=error,
        )  # fmt: skip
    return found


def test_each_form_is_compared_at_its_own_best_rate(spec):
    # Bug: forms are compared at one rate, which favours the form that it suits.
    best, _ = verdicts(spec, results_of(spec))
    assert (best.better, best.than) == ('WN at its best rate, 1', 'neither at its best rate, 0.1')
    assert best.difference.mean == pytest.approx(10)
    assert best.text == 'yes'


def test_a_rate_works_by_its_distance_from_no_training(spec):
    # Bug: 95 % of a negative best value is above it, and no rate works.
    _, largest = verdicts(spec, results_of(spec))
    assert largest.better == 'the largest of WN, ≥ 1'
    assert largest.than == 'the largest of neither, 0.1'
    assert largest.difference.mean == pytest.approx(1)  # a factor of 10
    assert largest.text == 'yes'


def test_a_diverged_run_is_neither_best_nor_a_rate_that_works(spec):
    # Bug: minus infinity is compared as a number, or one seed decides for the others.
    results = results_of(spec, diverged={('WN', 2, 1)})
    best, largest = verdicts(spec, results)
    assert best.better == 'WN at its best rate, 0.1'
    assert largest.better == 'the largest of WN, 0.1, ≥ 1'
    assert largest.text == 'undecided'
    everywhere = {('WN', number, 0) for number in range(3)}
    assert [v.text for v in verdicts(spec, results_of(spec, diverged=everywhere))] == [
        'a run diverged', 'no rate trains',
    ]  # fmt: skip


def test_a_sweep_with_a_missing_run_has_no_verdict(spec):
    # Bug: the best of the rates that were run so far counts as the best.
    results = results_of(spec)
    results.pop(next(cell for cell in results if cell.form == 'WN'))
    assert {v.text for v in verdicts(spec, results)} == {'not run (0 of 3 seeds)'}


def test_sweeps_at_other_numbers_of_images_have_a_table_of_their_own(tmp_path):
    # Bug: one cell shows the mean of runs of 4 and of 8 images.
    (tmp_path / 'spec.py').write_text(
        SPEC.replace('images_per_step=(4,)', 'images_per_step=(4, 8)')
    )
    spec = read_spec(tmp_path / 'spec.py')
    of_four, of_eight = tables(spec, results_of(spec))
    assert (of_four.block.images_per_step, of_eight.block.images_per_step) == ((4,), (8,))
    assert of_four.rows['WN'][1.0].count == 3
    assert set(of_eight.rows['WN'].values()) == {None}


def test_the_largest_rate_is_that_of_each_seed():
    # Bug: a rate that fails on one seed counts as one that works, or the other way round.
    task = Task('t', 'c.py', 'accuracy', 1, (0.1,), floor=0.1)
    sweep = {
        0.1: {0: 0.90, 1: 0.90, 2: 0.1},
        1.0: {0: 0.87, 1: 0.85, 2: 0.1},
        10.0: {0: 0.10, 1: -math.inf, 2: 0.1},
    }
    assert best_rate(sweep) == 0.1
    assert largest_rates(sweep, task) == [1.0, 0.1, 0.0]


def test_the_report_explains_largest_rates_and_counts_from_the_floor(spec, tmp_path):
    # Bug: a report of negative metrics fails, or its chart ends at 0.
    for result in results_of(spec).values():
        append_result(tmp_path / 'r.jsonl', result)
    text = write_report(spec, tmp_path / 'r.jsonl').read_text()
    assert '≥ marks the largest that was tried' in text
    assert 'WN: at least 95 % of the way from -100 to its best mean, -49.990, with rates' in text
    assert 'rates from 0.1 to 1' in text
    assert (tmp_path / 'r' / '1_bounds.svg').exists()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (("('WN', 4)", "('WN', 8)"), "claims.0 has rate='best', but no block of the grid"),
        (("('best', 'largest')", "('worst',)"), "claims.0.rate names 'worst', which is none of"),
    ],
)
def test_a_claim_that_no_sweep_can_answer_is_refused(tmp_path, change, message):
    # Bug: such a claim stays "not run" for ever.
    assert change[0] in SPEC
    (tmp_path / 'spec.py').write_text(SPEC.replace(*change))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_spec(tmp_path / 'spec.py')
