"""A study runs what is missing, chooses rates by its rule, and reports from its file alone."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from mmws.config import load_config
from mmws.study import Cell, Result, read_results, read_spec, run_study, write_report
from mmws.study import run as run_module
from mmws.study.cell_config import cell_config
from mmws.study.results import append_result
from mmws.study.spec import all_cells, search_cells
from mmws.study.statistics import difference, estimate
from tests.helpers.paths import CONFIGS
from tests.helpers.processes import error_line, run_tool

SPEC = """
title = 'A study'
tasks = dict(
    digits=dict(
        title='Digits, small', config='{config}', metric='accuracy', images=16, rates=(0.01, 0.02)
    )
)
forms = {{
    'BN': dict(),
    'GN+WS': dict(conv='WS', norm='GN'),
    'WN': dict(conv='WN', norm=None, init=True),
}}
grid = [
    dict(task='digits', forms=('BN', 'GN+WS'), images_per_step=(1, 4), seeds=(0, 1, 2)),
    dict(task='digits', forms=('BN', 'GN+WS'), images_per_step=(4,), updates=16),
]
claims = [
    dict(
        text='GN+WS needs no batch', task='digits', better=('GN+WS', 1), than=('BN', 'best'),
        source='a paper',
    )
]
"""


def write_spec(folder: Path, text: str = SPEC, **values: object) -> Path:
    path = folder / 'small.py'
    values = {'config': CONFIGS / 'study' / 'digits_classification.py', **values}
    path.write_text(text.format(**values))
    return path


def made_up(cell: Cell, accuracy: float | None, error: str | None = None) -> Result:
    return Result(
        task=cell.task, form=cell.form, weight_function=None, norm=None,
        images_per_step=cell.images_per_step, updates=cell.updates, rate=cell.rate, seed=cell.seed,
        metrics={} if accuracy is None else {'accuracy': accuracy}, error=error, seconds=2.0,
        command='', seconds_per_step=0.1, peak_mib=900.0, threads=1,
    )  # fmt: skip


@pytest.fixture
def trained(monkeypatch):
    """Let runs take no time; return the cells in the order in which they were run."""
    order: list[Cell] = []

    def run_cell(spec, cell, work_dir, state, screen):
        order.append(cell)
        form = {'BN': 0.5, 'GN+WS': 0.9, 'WN': 0.7}[cell.form]
        # BN is best with the higher rate, GN+WS with the lower one.
        bonus = cell.rate if cell.form == 'BN' else -cell.rate
        return made_up(cell, form + bonus + 0.001 * cell.seed)

    monkeypatch.setattr(run_module, 'run_cell', run_cell)
    return order


def test_each_form_takes_its_best_rate_and_the_linear_rule(tmp_path, trained):
    # Bug: one form is tuned, another takes its rate; or a rate is not scaled with the images.
    spec = read_spec(write_spec(tmp_path))
    assert run_study(spec, tmp_path / 'r.jsonl', tmp_path) == 0
    assert trained[:4] == search_cells(spec)
    assert {(c.images_per_step, c.updates, c.seed) for c in trained[:4]} == {(1, 16, 0)}
    for form, rate in (('BN', 0.02), ('GN+WS', 0.01)):
        chosen = {(c.images_per_step, c.rate) for c in trained[4:] if c.form == form}
        assert chosen == {(1, rate), (4, 4 * rate)}
    # The run that won the search is the cell's first seed, and is not repeated.
    assert len(trained) == len(set(trained)) == 4 + 2 * 2 + 2 * 3 + 2 * 3
    assert {c.updates for c in trained if c.images_per_step == 4} == {4, 16}


def test_an_interrupted_study_goes_on_and_its_parts_share_the_runs(tmp_path, trained):
    # Bug: runs are repeated, or left out, by another call or another job of an array.
    spec, results = read_spec(write_spec(tmp_path)), tmp_path / 'r.jsonl'
    left = run_study(spec, results, tmp_path, shard=(1, 2), stop_after=-1)
    assert left == 2
    assert not trained
    assert run_study(spec, results, tmp_path, shard=(1, 2)) == 0
    assert {c.form for c in trained} == {'BN'}
    half = len(trained)
    assert run_study(spec, results, tmp_path) == 0
    assert {c.form for c in trained[half:]} == {'GN+WS'}
    assert len(trained) == len(set(trained)) == len(read_results(results))
    run_study(spec, results, tmp_path)
    assert len(trained) == 2 * half


def test_a_line_that_a_killed_process_left_costs_one_run(tmp_path, trained):
    # Bug: the file cannot be read any more, or the next result is written behind the rest of it.
    spec, results = read_spec(write_spec(tmp_path)), tmp_path / 'r.jsonl'
    run_study(spec, results, tmp_path)
    whole = results.read_text()
    results.write_text(whole[:-30])
    before = len(trained)
    run_study(spec, results, tmp_path)
    assert len(trained) == before + 1
    assert len(read_results(results)) == before


def test_a_diverged_rate_is_never_chosen(tmp_path):
    # Bug: a run without a metric stops the study, or counts as the best.
    spec, results = read_spec(write_spec(tmp_path)), tmp_path / 'r.jsonl'
    for cell in search_cells(spec):
        diverged = cell.form == 'BN' or cell.rate == 0.02
        append_result(
            results, made_up(cell, None if diverged else 0.1, 'loss nan' if diverged else None)
        )
    left = run_study(spec, results, tmp_path, stop_after=-1)
    assert left == 8  # GN+WS alone: 2 more seeds at 1 image, 3 at 4 images, 3 of equal updates
    text = write_report(spec, results).read_text()
    assert '| BN | diverged | diverged |' in text
    assert '| GN+WS | **0.100** | diverged |' in text


def test_further_seeds_of_some_cells_go_into_the_same_table(tmp_path, trained):
    # Bug: a second table shows a part of the seeds, with an interval of its own.
    more = "dict(task='digits', forms=('BN', 'GN+WS'), images_per_step=(1,), seeds=(3, 4)),"
    spec = read_spec(write_spec(tmp_path, SPEC.replace('grid = [', f'grid = [{more}')))
    run_study(spec, tmp_path / 'r.jsonl', tmp_path)
    text = write_report(spec, tmp_path / 'r.jsonl').read_text()
    assert text.count('equal images seen') == 2  # the heading and the chart's caption
    half = estimate([0.001 * seed for seed in range(5)]).half_width
    assert f'| BN | 0.522 ± {half:.3f} | 0.581 ± 0.002 |' in text
    assert 'Seeds: 5 at 1, 3 at 4.' in text


def test_a_column_whose_forms_have_unlike_numbers_of_seeds_says_so(tmp_path, trained):
    # Bug: the report names the most seeds of a column for all of its cells.
    more = "dict(task='digits', forms=('BN', 'GN+WS'), images_per_step=(1,), seeds=(3, 4)),"
    spec = read_spec(write_spec(tmp_path, SPEC.replace('grid = [', f'grid = [{more}')))
    run_study(spec, tmp_path / 'r.jsonl', tmp_path, only='BN')
    text = write_report(spec, tmp_path / 'r.jsonl').read_text()
    assert 'Seeds: 0-5 at 1, 0-3 at 4.' in text


def test_runs_are_chosen_by_the_name_of_their_form(tmp_path, trained):
    # Bug: `--only 'GN+WS'` says that no run is left, since folders are named GN-WS.
    spec, results = read_spec(write_spec(tmp_path)), tmp_path / 'r.jsonl'
    assert run_study(spec, results, tmp_path, only='GN+WS') == 0
    assert {c.form for c in trained} == {'GN+WS'}
    trained.clear()
    assert run_study(spec, tmp_path / 'more.jsonl', tmp_path, only='GN+WS/1x') == 0
    assert {(c.form, c.images_per_step) for c in trained} == {('GN+WS', 1)}
    with pytest.raises(ValueError, match=r"has 'GN-BN' in its name; there are digits/BN, d"):
        run_study(spec, results, tmp_path, only='GN-BN')


def test_a_run_may_be_named_before_its_rate_is_known(tmp_path, trained):
    # Bug: the command that a results file names for a run is refused in a new study.
    spec = read_spec(write_spec(tmp_path))
    for text in ('digits/BN/4x4_rate0.08_seed0', '4x4', '_seed2', 'x16_rate'):
        assert run_study(spec, tmp_path / 'r.jsonl', tmp_path, only=text) == 0
    with pytest.raises(ValueError, match="has '9x9' in its name"):
        run_study(spec, tmp_path / 'r.jsonl', tmp_path, only='9x9')


@pytest.mark.parametrize('images', [0, -2, 2.5, '2'])
def test_the_images_of_the_search_are_a_number(tmp_path, images):
    text = SPEC.replace('images=16,', f'images=16, search_images_per_step={images!r},')
    with pytest.raises(ValueError, match=r'tasks\.digits\.search_images_per_step must be a whole'):
        read_spec(write_spec(tmp_path, text))


def test_the_report_comes_from_the_file_alone(tmp_path, trained):
    # Bug: an empty cell looks like a result, or a number of one seed like a claim.
    spec, results = read_spec(write_spec(tmp_path)), tmp_path / 'r.jsonl'
    results.touch()
    assert '![' not in write_report(spec, results).read_text()  # Bug: charts of nothing
    run_study(spec, results, tmp_path, only='BN')
    text = write_report(spec, results).read_text()
    assert '| GN+WS | – | – |' in text
    assert 'not run (0 of 3 seeds)' in text
    assert '| BN | 0.521 ± 0.002 | 0.581 ± 0.002 |' in text

    run_study(spec, results, tmp_path)
    page = write_report(spec, results, tmp_path / 'page.md')
    text = page.read_text()
    assert 'GN+WS at 1 less BN at its best, 4 | +0.310 ± 0.002 | yes |' in text
    charts = re.findall(r'!\[.*\]\((.*)\)', text)
    assert len(charts) == 2
    assert all((tmp_path / chart).read_text().count('GN+WS') for chart in charts)
    again = write_report(spec, results, tmp_path / 'again' / 'page.md')
    assert again.read_text() == text
    for chart in charts:  # a report that did not change makes no change in version control
        assert (tmp_path / 'again' / chart).read_bytes() == (tmp_path / chart).read_bytes()


def test_intervals_are_those_of_scipy():
    # Bug: the normal distribution's 1.96 instead of Student's 4.30 for three seeds.
    values, others = [0.5, 0.6, 0.75], [0.3, 0.35, 0.36, 0.1]
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    found = estimate(values)
    assert found.half_width == pytest.approx((high - low) / 2)
    low, high = stats.ttest_ind(values, others, equal_var=False).confidence_interval(0.95)
    found = difference(values, others)
    assert found.mean - found.half_width == pytest.approx(low)
    assert found.mean + found.half_width == pytest.approx(high)
    assert estimate(values[:2]).half_width is None
    assert difference(values, others[:2]).half_width is None
    assert estimate([]) is None
    assert difference([0.5, 0.5, -math.inf], values).half_width is None


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (("rates=(0.01, 0.02)", 'rate=0.01'), "tasks.digits.rate is unknown"),
        (("metric='accuracy', ", ''), 'tasks.digits.metric is missing'),
        (("forms=('BN', 'GN+WS'), images_per_step=(1, 4)", "forms=('LN',), images_per_step=(1,)"),
         "grid.0.forms names 'LN', which is none of BN, GN+WS, WN"),
        (('images_per_step=(1, 4)', 'images_per_step=()'), 'grid.0.images_per_step is empty'),
        (('images_per_step=(1, 4)', 'images_per_step=(0, 4)'), 'grid.0 has a number below 1'),
        (("title = 'A study'", 'titel = 1'), 'has no title'),
        (("('GN+WS', 1)", "('GM', 1)"), "claims.0 names 'GM'"),
    ],
)  # fmt: skip
def test_a_wrong_study_is_refused_by_name(tmp_path, change, message):
    assert change[0] in SPEC
    with pytest.raises(ValueError, match=re.escape(message)):
        read_spec(write_spec(tmp_path, SPEC.replace(*change)))


def test_the_runs_differ_in_what_the_cell_says_and_in_nothing_else(tmp_path):
    # Bug: a form gets another schedule, other data or other regularization.
    spec = read_spec(write_spec(tmp_path))
    cells = [Cell('digits', form, 2, 8, 0.02, 1) for form in spec.forms]
    configs = []
    for number, cell in enumerate(cells):
        path = tmp_path / f'cell_{number}.py'
        path.write_text(cell_config(spec, cell))
        configs.append(load_config(path).to_dict())
    for cfg, form in zip(configs, spec.forms.values(), strict=True):
        assert (cfg['model'].pop('conv'), cfg['model'].pop('norm')) == (form.conv, form.norm)
        assert bool(cfg.pop('custom_hooks')) is form.init
    assert configs[0] == configs[1] == configs[2]
    assert configs[0]['optim_wrapper']['optimizer']['lr'] == 0.02
    assert configs[0]['train_dataloader']['batch_size'] == 2
    assert configs[0]['train_cfg']['max_iters'] == 8
    assert configs[0]['randomness']['seed'] == 1


@pytest.mark.slow
@pytest.mark.parametrize('name', ['claims', 'pretrained', 'nuclei', 'cifar10'])
def test_every_config_of_a_study_that_comes_with_mmws_is_there(name):
    # Bug: a task or a form of a study names a config that was renamed, and fails hours later.
    spec = read_spec(CONFIGS / 'study' / f'{name}.py')
    for cell in {(c.task, c.form): c for c in all_cells(spec, {})}.values():
        cfg = cell_config(spec, replace(cell, rate=0.1))
        base = re.search(r"_base_ = '(.*)'", cfg)[1]
        assert load_config(base).model is not None


@pytest.mark.slow
def test_a_failure_that_is_no_divergence_ends_the_study(tmp_path):
    # Bug: a missing config counts as a diverged training, or its cause is lost in a log.
    spec = read_spec(write_spec(tmp_path))
    task = replace(spec.tasks['digits'], config='missing.py')
    spec = replace(spec, tasks={'digits': task})
    with pytest.raises(RuntimeError, match=r'run digits/BN/.* failed: .*missing.py'):
        run_study(spec, tmp_path / 'r.jsonl', tmp_path / 'work')
    assert read_results(tmp_path / 'r.jsonl') == {}


GRID = """
title = 'A grid in seconds'
tasks = dict(
    digits=dict(
        title='Digits', config='{config}', metric='accuracy', images=16, rates=(0.01,),
        evaluations=2,
    )
)
forms = {{'BN': dict(), 'WN': dict(conv='WN', norm=None, init=True)}}
grid = [
    dict(task='digits', forms=('WN',), images_per_step=(4,), seeds=(0,)),
    dict(task='digits', forms=('BN',), images_per_step=(4,), rates=(1e30,), seeds=(0,)),
]
"""


@pytest.mark.e2e
@pytest.mark.slow
def test_a_small_grid_from_the_command_line(tmp_path):
    # Bug: what the tool runs is no training, or a diverged one is lost.
    spec, results = write_spec(tmp_path, GRID), tmp_path / 'r.jsonl'
    options = (spec, '--results', results, '--work-dir', tmp_path / 'work')
    output = run_tool('study.py', *options)
    assert '[3/3]' in output
    assert '0 runs left' in output
    first, second, third = (json.loads(line) for line in results.read_text().splitlines())
    assert (first['images_per_step'], first['updates'], first['rate']) == (1, 16, 0.01)
    assert (second['images_per_step'], second['updates'], second['rate']) == (4, 4, 0.04)
    assert [update for update, _ in first['curve']] == [8, 16]
    assert 0 <= second['metrics']['accuracy'] <= 1
    assert second['error'] is None
    assert 'diverged' in third['error']
    assert 'Weight Normalization' in next((tmp_path / 'work').glob('*/WN/*/output.txt')).read_text()
    assert 'r.md' in run_tool('study.py', *options, '--report')
    assert 'diverged' in (tmp_path / 'r.md').read_text()
    line = error_line(run_tool('study.py', spec, '--shard', '3/2', code=1))
    assert line == "error: --shard must be I/N with I from 1 to N, got '3/2'"


def test_processes_share_the_images_of_a_step(tmp_path):
    # Bug: each process takes all images of a step, or the rate is chosen for one image.
    text = SPEC.replace("'WN': dict(", "'WN': dict(processes=4, ")
    text = text.replace(
        "forms=('BN', 'GN+WS'), images_per_step=(4,)", "forms=('WN',), images_per_step=(8,)"
    )
    spec = read_spec(write_spec(tmp_path, text))
    search = [cell for cell in search_cells(spec) if cell.form == 'WN']
    assert [(c.images_per_step, c.updates, c.rate) for c in search] == [(4, 4, 0.04), (4, 4, 0.08)]
    cell = next(c for c in all_cells(spec, {('digits', 'WN'): 0.01}) if c.images_per_step == 8)
    assert cell.rate == 0.08
    assert 'train_dataloader = dict(batch_size=2,' in cell_config(spec, cell)
    for bad, message in (
        ('processes=3', '8 images per step, which the 3 processes of WN cannot share equally'),
        ("norm='SyncBN'", "forms.WN: norm='SyncBN' needs processes above 1"),
        ('processes=0', r'forms\.WN\.processes must be a whole number of at least 1, got 0'),
    ):
        with pytest.raises(ValueError, match=message):
            read_spec(write_spec(tmp_path, text.replace("processes=4, conv='WN', norm=None", bad)))


TWO_PROCESSES = """
title = 'Two processes'
tasks = dict(
    digits=dict(title='Digits', config='{config}', metric='accuracy', images=8, rates=({rate},))
)
forms = {{'SyncBN': dict(norm='SyncBN', processes=2)}}
grid = [dict(task='digits', forms=('SyncBN',), images_per_step=(2,), seeds=(0,))]
"""


@pytest.mark.e2e
@pytest.mark.slow
def test_two_processes_train_a_cell_with_synchronized_norms(tmp_path, monkeypatch):
    # Bug: each process trains for itself, or an outer job is joined.
    for name, value in {'RANK': '1', 'WORLD_SIZE': '3', 'LOCAL_RANK': '1'}.items():
        monkeypatch.setenv(name, value)
    spec = read_spec(write_spec(tmp_path, TWO_PROCESSES, rate=0.01))
    assert run_study(spec, tmp_path / 'r.jsonl', tmp_path / 'work') == 0
    (line,) = (tmp_path / 'r.jsonl').read_text().splitlines()
    result = json.loads(line)
    assert (result['images_per_step'], result['updates'], result['rate']) == (2, 4, 0.02)
    assert (result['processes'], result['norm'], result['threads']) == (2, 'SyncBN', 1)
    assert 0 <= result['metrics']['accuracy'] <= 1
    (output,) = (tmp_path / 'work').glob('*/*/*/output.txt')
    assert 'GPU number: 2' in output.read_text()


@pytest.mark.e2e
@pytest.mark.slow
def test_two_processes_that_diverge_are_a_result_and_a_failure_names_its_cause(tmp_path):
    # Bug: a diverged rank ends the study, or the reason of a failure is a line of torchrun's.
    spec = read_spec(write_spec(tmp_path, TWO_PROCESSES, rate=1e30))
    assert run_study(spec, tmp_path / 'r.jsonl', tmp_path / 'work') == 0
    (result,) = read_results(tmp_path / 'r.jsonl').values()
    assert 'diverged' in result.error
    task = replace(spec.tasks['digits'], config='missing.py')
    with pytest.raises(RuntimeError, match=r'failed: .*missing\.py'):
        run_study(replace(spec, tasks={'digits': task}), tmp_path / 'q.jsonl', tmp_path)
