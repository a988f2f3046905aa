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
    rows: dict[tuple[str, str], list[str]] = {}
    for model in models:
        key = model['In Collection'], model['Metadata']['Training Data']
        rows.setdefault(key, []).append(_row(model))
    missing = rows.keys() - {match.group(2, 3) for match in _TABLE.finditer(page)}
    if missing:
        raise ValueError(f'the page has no <!-- table: {", ".join(min(missing))} -->')
    lines = ['| ' + ' | '.join(_COLUMNS) + ' |', '| --- | --- | ---: | ---: | --- | --- | --- |']

    def table(match: re.Match) -> str:
        start, *key, end = match.groups()
        return start + ''.join(f'{line}\n' for line in (*lines, *rows[tuple(key)])) + end

    return _TABLE.sub(table, page)


def _row(model: dict[str, Any]) -> str:
    metadata = model['Metadata']
    by_mmdet = {}
    for result in model.get('Results', []):
        by_mmdet.update(result['Metrics'])
    published = _ap(by_mmdet)
    if published:
        published = f'[{published}]({_MMDET}{model["Published by MMDetection"]})'
    cells = (
        f'[{model["Name"]}](../{model["Config"]})',
        metadata['Normalization'],
        metadata['Images per GPU'],
        metadata['Epochs'],
        _ap(model.get('Published by the authors', {})),
        published,
        f'[model]({model["Weights"]})' if 'Weights' in model else '',
    )
    return '| ' + ' | '.join(map(str, cells)) + ' |'


def _ap(metrics: dict[str, float]) -> str:
    return ', '.join(str(metrics[key]) for key in ('box AP', 'mask AP') if key in metrics)


def main() -> None:
    page = ROOT / 'docs' / 'model_zoo.md'
    with one_line_errors():
        text = fill_tables(page.read_text(encoding='utf-8'), read_models(ROOT / 'model-index.yml'))
        with replacing(page) as draft:
            draft.write_text(text, encoding='utf-8')
    print(f'wrote {page}')


if __name__ == '__main__':
    main()
