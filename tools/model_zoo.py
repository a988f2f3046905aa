"""Make the tables of docs/model_zoo.md from the metafiles: `python tools/model_zoo.py`."""

from pathlib import Path

from mmws.engine.cli import one_line_errors
from mmws.files import replacing
from mmws.zoo import fill_tables, read_models

ROOT = Path(__file__).parents[1]


def main() -> None:
    page = ROOT / 'docs' / 'model_zoo.md'
    with one_line_errors():
        text = fill_tables(page.read_text(encoding='utf-8'), read_models(ROOT / 'model-index.yml'))
        with replacing(page) as draft:
            draft.write_text(text, encoding='utf-8')
    print(f'wrote {page}')


if __name__ == '__main__':
    main()
