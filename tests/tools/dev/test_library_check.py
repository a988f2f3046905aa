"""The check of libraries: every model gets a line, and every failure is in the table."""

import json
import sys

import pytest
import torch
from torch import nn

import mmws
from tools.dev.library_check import __main__ as command
from tools.dev.library_check import models
from tools.dev.library_check.check import check_model
from tools.dev.library_check.report import failure, write_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        torch.cuda.is_available(), reason='forks a process that may have threads of CUDA by now'
    ),
]


def good():
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU())


class Unexportable(nn.Module):
    """A model whose code depends on the values of the image."""

    def __init__(self):
        super().__init__()
        self.block = good()

    def forward(self, x):
        return self.block(x) * (1 if x.sum() > 0 else 2)


def broken():
    raise OSError('no weights | anywhere')


def test_results_of_a_model():
    # Bug: a stage is left out without a word, and the model counts as passed.
    results = {}
    for result in check_model(good):
        results.update(result)
    del results['seconds_to_convert']
    assert results.pop('check_difference') < 1e-6
    assert results.pop('fold_difference') < 1e-5
    assert results == dict(
        stage='done', parameters=960, original_trains=True, convs=1, norms=1, left=0, holds=True,
        unchecked=0,
        trains=True, fold_equal=True, exports=True,
    )  # fmt: skip
    assert not failure(results)


def test_what_the_original_cannot_do_is_no_failure():
    results = {}
    for result in check_model(Unexportable):
        results.update(result)
    assert results['exports'] is None
    assert results['export_error']
    assert not failure(results)


def test_a_conversion_that_does_not_hold_is_a_failure(monkeypatch):
    # Bug: the check compares nothing.
    def wrong(model):
        layer = mmws.ConvWS2d(3, 32, 3)
        model[0], model[1] = layer, nn.Identity()
        change = mmws.surgery.conversion_report.Change('0', 'Conv2d', 'ConvWS2d')
        model.conversion_report = mmws.surgery.ConversionReport(convs=[change])

    monkeypatch.setattr(mmws, 'convert', wrong, raising=False)
    results = {}
    for result in check_model(good):
        results.update(result)
    assert not results['holds']
    assert 'the check fails' in failure(results)


def test_a_check_goes_on_and_repeats_failures(monkeypatch, tmp_path):
    out, page = tmp_path / 'results.jsonl', tmp_path / 'page.md'
    library = {'good': good, 'broken': broken}
    monkeypatch.setattr(command, 'LIBRARIES', {'own': None})
    monkeypatch.setattr(models, 'LIBRARIES', {'own': lambda: iter(library.items())})

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['library_check', '--out', str(out), *arguments])
        command.main()
        return [json.loads(line) for line in out.read_text().splitlines()]

    assert run('--minutes', '0') == []
    good_result, broken_result = run()
    assert good_result['stage'] == 'done'
    assert broken_result['error'] == 'OSError: no weights | anywhere'
    assert run() == [good_result, broken_result]  # Bug: what is done is done again.

    write_page([good_result, broken_result], page)
    assert '| own | 1 | 1/1 | 1/1 | 1/1 | 1/1 | 1/1 |' in page.read_text()
    assert r'| own: broken | build | OSError: no weights \| anywhere |' in page.read_text()

    library['broken'] = good
    # Bug: a failure that there was no time to try again has vanished from the file.
    assert run('--retry', '--minutes', '0') == [good_result, broken_result]
    *before, again = run('--retry')
    assert before == [good_result, broken_result]
    assert again['stage'] == 'done'
    assert len(run('--retry')) == 3  # what has passed at last is done
    run('--report', str(page))
    assert '| own | 2 | 2/2 | 2/2 | 2/2 | 2/2 | 2/2 |' in page.read_text()
