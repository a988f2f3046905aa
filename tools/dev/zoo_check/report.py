"""Write the results of a zoo check as a table by family of models."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torchvision

from mmws.files import replacing

from .run import RESULTS, ZOO, read_results, zoo_configs

# The stages in their order: heading of the column, key in the results.
_STAGES = (
    ('built', 'built'),
    ('ran', 'ran'),
    ('converted', 'converted'),
    ('ran converted', 'ran_converted'),
    ('remade equal', 'remake_equal'),
    ('check holds', 'holds'),
    ('fold equal', 'fold_equal'),
)
_DISTRIBUTIONS = (
    'mmdet', 'onedl-mmdetection', 'mmcv-lite', 'onedl-mmcv', 'mmengine', 'onedl-mmengine',
    'onedl-mmpretrain', 'lap', 'timm',
)  # fmt: skip

_HEAD = """# The zoo check

Every config that MMDetection ships, through {command}: its model is built without pretrained
weights, takes a training step, where it has one, and an inference on two random images, is
converted by `mmws.convert(model, conv='WS', norm='GN')`, does the same again with
finite losses and gradients, trains with `mmws.TrainingStep(model, remake=True)` to bit-equal loss
and gradients, where it has a training step, is checked by `mmws.check_conversion`, and is folded by
`mmws.fold`. Outputs before and after folding are equal if they differ by at most 1e-4 of the
largest output. The check of a model without converted layers holds.

Run {dates}. {versions}.

**{passed} of the {ran} configs whose model runs here unconverted ({share:.1%}) convert, train, run,
hold the check and fold to equal outputs.** {left} are left out, for the reasons below. {distinct}
models are distinct; a config whose model differs in nothing but weights to load and numbers of
proposals counts as the model that was run.{unchecked}{pending}{remaking}

"""


def write_report(out: str | Path, document: str | Path, command: str, *, root: Path = ZOO) -> str:
    """Write the report of a check: a table by family, what failed, and what was left out.

    Args:
        out: Folder of the results.
        document: Markdown file to write.
        command: The command line that made the results.
        root: Folder of the configs; those in it without a result are counted as pending.

    Returns:
        The text.

    Raises:
        FileNotFoundError: if there are no results.
    """
    path = Path(out) / RESULTS
    results = read_results(path)
    if not results:
        raise FileNotFoundError(f'{path} has no results: check configs before the report')
    text = report(results, command, zoo_configs(root))
    with replacing(Path(document)) as draft:
        draft.write_text(text, encoding='utf-8')
    return text


def report(results: Iterable[dict[str, Any]], command: str, configs: Iterable[str] = ()) -> str:
    """Return the Markdown text for results as :func:`tools.dev.zoo_check.check_zoo` writes them.

    Args:
        results: The results.
        command: As for :func:`write_report`.
        configs: Names of all configs that are to be checked.
    """
    own = {result['config']: result for result in results}
    # If several configs have the same model, only the first of them was run.
    resolved = {name: own.get(result.get('same_as', name)) for name, result in own.items()}
    pending = {name for name, result in resolved.items() if result is None}
    pending |= {*configs} - own.keys()
    found = {name: result for name, result in resolved.items() if result is not None}

    families = defaultdict(list)
    for name, result in found.items():
        families[name.partition('/')[0]].append((name, result))
    headings = ['family', 'configs', 'distinct', *(heading for heading, _ in _STAGES)]
    rows = [[family, *_counts(families[family], own)] for family in sorted(families)]
    rows.append(['**all**', *(sum(column) for column in list(zip(*rows))[1:])])

    left = {name: r for name, r in found.items() if not r.get('ran')}
    failed = {name: r for name, r in found.items() if r.get('ran') and not _passed(r)}
    ran = len(found) - len(left)
    text = _HEAD.format(
        command=f'`{command}`',
        dates=_dates(own.values()),
        versions=_versions(),
        passed=ran - len(failed),
        ran=ran,
        share=(ran - len(failed)) / max(ran, 1),
        left=len(left),
        distinct=sum('same_as' not in own[name] for name in found),
        remaking=_remaking(found.values()),
        unchecked=_unchecked(found),
        pending=f' **{len(pending)} more configs are not checked yet.**' if pending else '',
    )
    text += _table(headings, rows)
    text += '\n## Failed\n\n' + (_causes(failed) if failed else 'None.\n')
    text += '\n## Left out\n\n' + (_causes(left) if left else 'None.\n')
    return text


def _remaking(results: Iterable[dict[str, Any]]) -> str:
    """Return how much less is kept for the backward pass with remaking, over all models."""
    shares = [r['kept_remade'] / r['kept'] for r in results if 'kept_remade' in r]
    if not shares:
        return ''
    return (
        f' Remaking keeps {statistics.median(shares):.0%} of the bytes (median), and at most '
        f'{max(shares):.0%}. Made weights count, most of it with images as small as these.'
    )


def _unchecked(results: dict[str, dict[str, Any]]) -> str:
    """Return of how many models the check says nothing about some converted layers."""
    converted = {name: r for name, r in results.items() if r.get('convs') and 'holds' in r}
    unknown = [name for name, result in converted.items() if 'unchecked' not in result]
    names = [name for name, result in converted.items() if result.get('unchecked')]
    text = f' The check says nothing about some layers of {_names(names)}.' if names else ''
    if unknown:
        return f'{text} Whether it reaches all layers was not recorded for {len(unknown)} configs.'
    return text or ' The check reaches every converted layer.'


def _passed(result: dict[str, Any]) -> bool:
    return bool(
        result.get('fold_equal') and result.get('holds') and result.get('remake_equal', True)
    )


def _dates(results: Iterable[dict[str, Any]]) -> str:
    """Return the days on which configs were run."""
    days = sorted({result['date'] for result in results if 'date' in result})
    return ' to '.join(dict.fromkeys((days[0], days[-1]))) if days else 'on unknown days'


def _counts(family: list[tuple[str, dict]], own: dict[str, dict]) -> list[int]:
    distinct = sum('same_as' not in own[name] for name, _ in family)
    stages = [sum(bool(result.get(key)) for _, result in family) for _, key in _STAGES]
    return [len(family), distinct, *stages]


def _table(headings: list[str], rows: list[list[Any]]) -> str:
    lines = [headings, ['---', *['---:'] * (len(headings) - 1)], *rows]
    return ''.join('| ' + ' | '.join(map(str, line)) + ' |\n' for line in lines)


def _causes(results: dict[str, dict]) -> str:
    """Return a table with a row for each cause: number of configs, stage, families or names."""
    groups = defaultdict(list)
    for name, result in results.items():
        groups[_cause(result), result.get('stage', '')].append(name)
    rows = [
        [len(names), stage, cause, _names(names)]
        for (cause, stage), names in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    lines = [['configs', 'stage', 'cause', 'which'], ['---:', '---', '---', '---'], *rows]
    return ''.join('| ' + ' | '.join(map(str, line)) + ' |\n' for line in lines)


def _cause(result: dict[str, Any]) -> str:
    if 'check_error' in result:
        return f'the check: {result["check_error"]}'.replace('|', '\\|')
    if result.get('holds') is False:
        return f'the check fails by {result["check_difference"]:.1e}'
    if 'error' not in result and result.get('remake_equal') is False:
        return 'training with remaking differs'
    if 'error' not in result:
        return f'outputs differ by {result["difference"]:.1e}'
    # Remove the folder of the configs, which differs between machines and is no part of the cause.
    error = result['error'].replace(f'{ZOO}/', '').replace('mmdet/.mim/configs/', '')
    error = error.replace('|', '\\|')
    return error if len(error) <= 160 else f'{error[:157]}...'


def _names(names: list[str]) -> str:
    if len(names) <= 3:
        return ', '.join(f'`{name}`' for name in names)
    families = Counter(name.partition('/')[0] for name in names)
    return ', '.join(f'`{family}` {count}' for family, count in sorted(families.items()))


def _versions() -> str:
    versions = [f'torch {torch.__version__}', f'torchvision {torchvision.__version__}']
    for name in _DISTRIBUTIONS:
        try:
            versions.append(f'{name} {metadata.version(name)}')
        except metadata.PackageNotFoundError:
            continue
    return ', '.join(versions)
