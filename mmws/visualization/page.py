"""One self-contained HTML page about a training run, for light and dark screens of any width."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from .drawing import draw
from .examine import IOU_THRESHOLD, Examination, ImageResult, predicted_samples

_MAX_CLASSES = 30  # of a confusion matrix that can be read
_PICTURE_WIDTH = 1600  # pixels

_STYLE = """
:root { color-scheme: light dark; --line: #d4d4d8; --soft: #f4f4f5; --ink: #18181b; --page: #fff;
  --hit: 0, 114, 178; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3f3f46; --soft: #27272a; --ink: #f4f4f5; --page: #18181b;
    --hit: 86, 180, 233; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(.75rem, 3vw, 2.5rem); max-width: 72rem;
  color: var(--ink); background: var(--page); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { background: var(--soft); }
.matrix td { text-align: center; min-width: 3rem; }
.matrix .down { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  max-height: 9rem; overflow: hidden; text-overflow: ellipsis; }
img { max-width: 100%; height: auto; border-radius: 6px; display: block; }
.curves { background: #fff; padding: .5rem; border-radius: 6px; }
figure { margin: 1rem 0 1.5rem; }
figcaption { padding: .3rem 0; overflow-wrap: anywhere; }
/* A phone would shrink the letters in pictures below what can be read: they scroll there. */
@media (max-width: 48rem) {
  .pictures { overflow-x: auto; }
  .pictures img { width: 48rem; max-width: none; } }
pre { background: var(--soft); padding: .7rem; border-radius: 6px; overflow-x: auto; }
"""


def write_page(
    path: Path,
    title: str,
    summary: list[str],
    tables: str,
    curves: Path,
    examination: Examination | None,
    pictures: list[tuple[str, str]],
) -> None:
    """Write the page.

    Args:
        path: The file.
        title: Heading.
        summary: Lines of text below it.
        tables: Tables of metrics in Markdown, as in ``metrics.md``.
        curves: Picture of the curves.
        examination: Results by class and image; ``None`` without a checkpoint.
        pictures: Caption and data URL of each picture.
    """
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{escape(title)}</title><style>{_STYLE}</style></head><body>',
        f'<h1>{escape(title)}</h1>',
        *(f'<p>{escape(line)}</p>' for line in summary),
        '<h2>Metrics</h2>',
        _markdown_tables(tables),
        '<h2>Curves</h2>',
        '<div class="pictures"><img class="curves" alt="loss, learning rate and mAP by iteration" '
        f'src="{_data_url(curves)}"></div>',
    ]
    if examination is not None and examination.images:
        parts += [_class_table(examination), _confusion(examination)]
    if pictures:
        parts.append('<h2>Worst and best images</h2>')
        parts += [
            f'<figure><figcaption>{escape(caption)}</figcaption>'
            f'<div class="pictures"><img alt="{escape(caption)}" src="{url}"></div>'
            '</figure>'
            for caption, url in pictures
        ]
    parts.append('</body></html>')
    path.write_text('\n'.join(parts), encoding='utf-8')


def draw_extremes(
    config: Config, checkpoint: str | Path, examination: Examination, count: int
) -> list[tuple[str, str]]:
    """Draw the worst and the best images; return caption and data URL of each, the worst first."""
    ranked = sorted(examination.images, key=lambda result: (result.f1, -result.objects))
    worst = ranked[: (count + 1) // 2]
    best = [result for result in ranked[::-1] if result not in worst][: count - len(worst)]
    wanted = {r.index: (i, r) for i, r in enumerate([*worst, *best])}
    drawn: list[tuple[int, str, str]] = []
    for index, _, image, sample, painter in predicted_samples(config, checkpoint, list(wanted)):
        place, result = wanted[index]
        picture = draw(painter, np.ascontiguousarray(image[..., ::-1]), sample)
        drawn.append((place, _caption(result), _jpeg_url(picture)))
    return [(caption, url) for _, caption, url in sorted(drawn)]


def _caption(result: ImageResult) -> str:
    false = result.predictions - result.hits
    return (
        f'{result.path.name}: {result.hits} of {result.objects} objects found, '
        f'{false} wrong {"alarm" if false == 1 else "alarms"} (F1 {result.f1:.2f})'
    )


def _class_table(examination: Examination) -> str:
    rows = ''.join(
        f'<tr><td>{escape(name)}</td><td>{objects}</td><td>{found}</td><td>{missed}</td>'
        f'<td>{wrong}</td><td>{_ratio(found, objects)}</td>'
        f'<td>{_ratio(found, found + wrong)}</td></tr>'
        for name, objects, found, missed, wrong in examination.by_class()
    )
    return (
        f'<h2>By class</h2><p>On {len(examination.images)} images, predictions with a score of '
        f'at least 0.3 that overlap an object with an IoU of at least {IOU_THRESHOLD}.</p>'
        '<div class="scroll"><table><thead><tr><th>class</th><th>objects</th><th>found</th>'
        '<th>missed</th><th>wrong alarms</th><th>recall</th><th>precision</th></tr></thead>'
        f'<tbody>{rows}</tbody></table></div>'
    )


def _ratio(part: int, whole: int) -> str:
    return f'{part / whole:.2f}' if whole else '–'


def _confusion(examination: Examination) -> str:
    count = len(examination.classes)
    if count > _MAX_CLASSES:
        return f'<p>The confusion matrix is left out: {count} classes are too many to read.</p>'
    names = [escape(name) for name in examination.classes]
    head = ''.join(f'<th><div class="down">{name}</div></th>' for name in [*names, 'missed'])
    rows = []
    matrix = examination.confusion
    for i, name in enumerate([*names, 'no object']):
        total = matrix[i].sum() or 1
        cells = ''.join(
            f'<td style="background: rgba(var(--hit), {0.85 * value / total:.2f})">'
            f'{value or ""}</td>'
            for value in matrix[i].tolist()
        )
        rows.append(f'<tr><td>{name}</td>{cells}</tr>')
    return (
        '<h2>Confusion</h2><p>Rows are objects, columns what was predicted at them.</p>'
        f'<div class="scroll"><table class="matrix"><thead><tr><th></th>{head}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div>'
    )


def _markdown_tables(text: str) -> str:
    """Return headings, paragraphs and tables of the report's Markdown as HTML."""
    parts: list[str] = []
    rows: list[str] = []
    for line in [*text.splitlines(), '']:
        if line.startswith('|'):
            cells = [escape(cell.strip()) for cell in line.strip('|').split('|')]
            if not set(''.join(cells)) <= {'-', ':'}:
                tag = 'td' if rows else 'th'
                rows.append('<tr>' + ''.join(f'<{tag}>{cell}</{tag}>' for cell in cells) + '</tr>')
            continue
        if rows:
            head, *body = rows
            parts.append(
                f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody>'
                '</table></div>'
            )
            rows = []
        if line.startswith('## '):
            parts.append(f'<h3>{escape(line[3:])}</h3>')
        elif line.strip() and not line.startswith('#'):
            parts.append(f'<p>{escape(line)}</p>')
    return '\n'.join(parts)


def _data_url(path: Path) -> str:
    return f'data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}'


def _jpeg_url(picture: np.ndarray) -> str:
    image = Image.fromarray(picture)
    if image.width > _PICTURE_WIDTH:
        image = image.resize((_PICTURE_WIDTH, round(image.height * _PICTURE_WIDTH / image.width)))
    content = io.BytesIO()
    image.save(content, 'JPEG', quality=88)
    return f'data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}'
