"""Write the tables of docs/model_zoo.md from the metafiles: `python tools/dev/model_zoo.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from mmws.engine.cli import one_line_errors
from mmws.files import replacing

ROOT = Path(__file__).parents[2]
StrPath = str | Path

_MMDET = 'https://github.com/open-mmlab/mmdetection/blob/main/'
_COLUMNS = ('config', 'norm', 'images per GPU', 'epochs', 'authors', 'MMDetection', 'weights')
_ALIGNMENT = ('---', '---', '---:', '---:', '---', '---', '---')
_METRICS = ('box AP', 'mask AP', 'top-1 error', 'top-5 error', 'mIoU')
# A table stands between a comment that names its detector and data, and the next comment.
_TABLE = re.compile(r'(<!-- table: ([^,\n]+), ([^\n]+) -->\n).*?(<!-- end -->)', re.DOTALL)


def read_models(index: StrPath) -> list[dict[str, Any]]:
    """Return the models of all metafiles.

    Args:
        index: ``model-index.yml``, in the folder that the paths of the metafiles start from.

    Raises:
        FileNotFoundError: if a metafile is missing.
    """
    root = Path(index).parent
    paths = yaml.safe_load(Path(index).read_text(encoding='utf-8'))['Import']
    metafiles = [yaml.safe_load((root / path).read_text(encoding='utf-8')) for path in paths]
    return [model for metafile in metafiles for model in metafile['Models']]


def fill_tables(page: str, models: Iterable[dict[str, Any]]) -> str:
    """Return ``page`` with its tables replaced by current ones.

    Args:
        page: Markdown with ``<!-- table: DETECTOR, DATA -->`` and ``<!-- end -->`` around each
            table.
        models: From :func:`read_models`.

    Raises:
        ValueError: if the page has no table for a model.
    """
    rows: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for model in models:
        key = model['In Collection'], model['Metadata']['Training Data']
        rows.setdefault(key, []).append(_row(model))
    missing = rows.keys() - {match.group(2, 3) for match in _TABLE.finditer(page)}
    if missing:
        raise ValueError(f'the page has no <!-- table: {", ".join(min(missing))} -->')

    def table(match: re.Match) -> str:
        start, *key, end = match.groups()
        return start + _table(rows[tuple(key)]) + end

    return _TABLE.sub(table, page)


def _table(rows: list[tuple[str, ...]]) -> str:
    """Return a table without the columns that are empty in every row."""
    columns = [column for column in zip(_COLUMNS, _ALIGNMENT, *rows) if any(column[2:])]
    return ''.join('| ' + ' | '.join(line) + ' |\n' for line in zip(*columns))


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    metadata = model['Metadata']
    by_mmdet = {}
    for result in model.get('Results', []):
        by_mmdet.update(result['Metrics'])
    published = _figures(by_mmdet)
    if published:
        published = f'[{published}]({_MMDET}{model["Published by MMDetection"]})'
    return (
        f'[{model["Name"]}](../{model["Config"]})',
        metadata['Normalization'],
        str(metadata['Images per GPU']),
        str(metadata['Epochs']),
        _figures(model.get('Published by the authors', {})),
        published,
        f'[model]({model["Weights"]})' if 'Weights' in model else '',
    )


def _figures(metrics: dict[str, float]) -> str:
    return ', '.join(str(metrics[key]) for key in _METRICS if key in metrics)


def main() -> None:
    page = ROOT / 'docs' / 'model_zoo.md'
    with one_line_errors():
        text = fill_tables(page.read_text(encoding='utf-8'), read_models(ROOT / 'model-index.yml'))
        with replacing(page) as draft:
            draft.write_text(text, encoding='utf-8')
    print(f'wrote {page}')


if __name__ == '__main__':
    main()
