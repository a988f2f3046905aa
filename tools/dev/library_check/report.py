"""Writes the results of the check of libraries as a page."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from .models import LIBRARIES

_HEAD = (
    '| library | models | converted | check holds | trains | folds equal | exports '
    '| median seconds |'
)


def write_page(results: list[dict[str, Any]], path: Path) -> None:
    """Write a table with a row for each library, and every failure by name.

    Args:
        results: Lines of the results file.
        path: The page.
    """
    libraries = list(dict.fromkeys(result['library'] for result in results))
    lines = [
        '# The check of libraries',
        '',
        'Models of other libraries, converted by `mmws.convert(model)` and checked by',
        '`mmws.check_conversion(model)`; the models are chosen by the rules in',
        '`tools/dev/library_check/models.py`. Made by',
        '',
        '```bash',
        'python -m tools.dev.library_check --out docs/reports/library_check.jsonl',
        '```',
        '',
        'Of the models that run as they are on the small inputs that mmws makes. "Trains" counts',
        'those whose original trains on these inputs. "Exports" counts the folded models that',
        '`torch.export` takes, of those whose original it takes. A model without a normalization',
        'has nothing to convert, and is counted as converted. An empty cell was not run.',
        '',
        _HEAD,
        '| --- |' + ' ---: |' * 7,
    ]
    lines += [_row(name, [r for r in results if r['library'] == name]) for name in libraries]
    left = [name for name in LIBRARIES if name not in libraries]
    lines += [f'| {name} |' + ' |' * 7 for name in left]
    lines += [_row('all', results), '', '## What failed, and what did not run', '']
    failed = [result for result in results if failure(result)]
    lines += ['| model | stage | reason |', '| --- | --- | --- |'] if failed else ['Nothing.']
    for result in failed:
        name = f'{result["library"]}: {result["model"]}'
        lines.append(f'| {name} | {result.get("stage", "")} | {failure(result)} |')
    partly = [result for result in results if result.get('unchecked')]
    unknown = [r for r in results if r.get('convs') and 'holds' in r and 'unchecked' not in r]
    if partly:
        names = ', '.join(f'{r["library"]}: {r["model"]} ({r["unchecked"]})' for r in partly)
        lines += ['', f'Layers that the check says nothing about, with their number: {names}.']
    if unknown:
        lines += ['', f'Whether it reaches all layers was not recorded for {len(unknown)} models.']
    path.write_text('\n'.join([*lines, '']), encoding='utf-8')


def _row(name: str, results: list[dict[str, Any]]) -> str:
    ran = [r for r in results if 'original_trains' in r]
    converted = [r for r in ran if 'convs' in r]
    checked = [r for r in converted if r['convs']]
    trained = [r for r in converted if r.get('original_trains')]
    exported = [r for r in converted if r.get('exports') is not None]
    seconds = [r['seconds_to_convert'] for r in converted]
    cells = [
        str(len(ran)),
        f'{len(converted)}/{len(ran)}',
        f'{sum(r.get("holds") is True for r in checked)}/{len(checked)}',
        f'{sum(r.get("trains") is True for r in trained)}/{len(trained)}',
        f'{sum(r.get("fold_equal") is True for r in converted)}/{len(converted)}',
        f'{sum(r["exports"] for r in exported)}/{len(exported)}',
        f'{median(seconds):.2f}' if seconds else '',
    ]
    return f'| {name} | ' + ' | '.join(cells) + ' |'


def failure(result: dict[str, Any]) -> str:
    """Return why a model did not pass, an empty string if it did."""
    if 'error' in result:
        return str(result['error']).replace('|', '\\|')
    if 'check_error' in result:
        return f'the check: {result["check_error"]}'.replace('|', '\\|')
    if result.get('holds') is False:
        return f'the check fails by {result["check_difference"]:.1e}'
    if result.get('fold_equal') is False:
        return f'the folded model differs by {result["fold_difference"]:.1e}'
    if result.get('original_trains') and not result.get('trains'):
        return 'does not train'
    if result.get('exports') is False:
        return f'torch.export: {result["export_error"]}'.replace('|', '\\|')
    return ''
