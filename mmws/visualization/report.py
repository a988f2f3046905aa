"""What a training run leaves for a human: a table, curves and pictures."""

import json
import math
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmcv.image import imwrite
from mmengine.config import Config

from mmws.checkpoints import Checkpoint, last_checkpoint
from mmws.config import load_config
from mmws.config.tree import other_library
from mmws.data.palette import OKABE_ITO

from .drawing import draw
from .examine import examine, predicted_samples
from .page import draw_extremes, write_page

# COCO's metric -> heading. In the log, the task and an underscore stand before it.
_COLUMNS = {
    'mAP': 'mAP',
    'mAP_50': 'AP50',
    'mAP_75': 'AP75',
    'mAP_s': 'small',
    'mAP_m': 'medium',
    'mAP_l': 'large',
}


_TIMES = {'step', 'time', 'data_time'}
_OTHER_METRICS = 6  # that are shown where there is no mAP


class History(NamedTuple):
    """The log of a run, joined over its resumptions, in the order of iterations.

    Attributes:
        train: One dict per logged training step, with ``iteration`` and what MMEngine logged:
            ``loss`` and its parts, ``lr``, ...
        evaluations: One dict per evaluation, with ``iteration`` and the metrics without the name
            of the evaluator: ``bbox_mAP``, ``segm_mAP_50``, ...
    """

    train: 'list[dict[str, Any]]'
    evaluations: 'list[dict[str, Any]]'


def read_history(work_dir: str | Path) -> History:
    """Read ``<work_dir>/<timestamp>/vis_data/scalars.json`` of a run and of its resumptions.

    Where a later log overlaps an earlier one, which had gone on past the checkpoint that the run
    was resumed from, the later one counts.

    Raises:
        FileNotFoundError: If there is no log of a training.
    """
    history = History([], [])
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        resumed = _read_scalars(path)
        if not resumed.train:
            continue
        start = resumed.train[0]['iteration']
        history = History(
            *(
                [r for r in old if r['iteration'] < start] + new
                for old, new in zip(history, resumed)
            )
        )
    if not history.train:
        raise FileNotFoundError(
            f'{work_dir} holds no log of a training, */vis_data/scalars.json: '
            'name the `work_dir` of the training'
        )
    return history


def _read_scalars(path: Path) -> History:
    history = History([], [])
    last = 0
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was killed while writing it
        metrics = {key.rpartition('/')[2]: value for key, value in record.items() if '/' in key}
        if not metrics and 'loss' not in record:  # an evaluator without a prefix, MMSegmentation's
            metrics = {key: value for key, value in record.items() if key not in _TIMES}
        if metrics:
            # The step is the iteration (mmws.engine.prepare sees to it). In logs of other tools it
            # counts epochs or stays 0, but the line follows those of the training before it.
            history.evaluations.append({'iteration': max(last, record.get('step', 0)), **metrics})
        elif 'loss' in record:
            last = record['step']
            history.train.append({'iteration': last, **record})
    return history


def read_test(work_dir: str | Path) -> 'dict[str, Any]':
    """Return the metrics of the latest ``tools/test.py`` run in ``work_dir``; empty if none.

    Keys are as in :class:`History`.
    """
    for folder in sorted((p for p in Path(work_dir).iterdir() if p.is_dir()), reverse=True):
        path = folder / f'{folder.name}.json'
        if path.is_file():
            metrics = json.loads(path.read_text())
            return {key.rpartition('/')[2]: value for key, value in metrics.items() if '/' in key}
    return {}


# ----------------------------------------------------------------------------------------- table


def _tasks(metrics: 'dict[str, Any]') -> 'list[str]':
    """Return the prefixes of the mAPs, ``['bbox', 'segm']``; ``['']`` for VOC's single one."""
    return [key[: -len('mAP')].rstrip('_') for key in metrics if key.endswith('mAP')]


def _key(task: str, metric: str) -> str:
    return f'{task}_{metric}' if task else metric


def _headline(metrics: 'dict[str, Any]') -> 'dict[str, str]':
    """Return the metrics that count, by their headings: all mAPs, or the first where none is."""
    tasks = _tasks(metrics)
    if tasks:
        return {f'{task} mAP'.strip(): _key(task, 'mAP') for task in tasks}
    hidden = {'iteration', 'loss', *_TIMES}
    names = [k for k, v in metrics.items() if isinstance(v, Real) and k not in hidden]
    return {name: name for name in names[:_OTHER_METRICS]}


def _number(value: float | None) -> str:
    # pycocotools says -1 where there is nothing to find, e.g. no large object.
    return '–' if value is None or math.isnan(value) or value < 0 else f'{value:.3f}'


def _markdown_table(rows: 'Sequence[Sequence[str]]') -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [' | '.join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    lines.insert(1, ' | '.join('-' * (width - 1) + ':' for width in widths))
    return '\n'.join(f'| {line} |' for line in lines) + '\n'


def _metrics_table(metrics: 'dict[str, Any]') -> str:
    tasks = _tasks(metrics)
    if not tasks:
        others = _headline(metrics)
        return _markdown_table([['metric', 'value'], *([n, _number(metrics[n])] for n in others)])
    rows = [['task', *_COLUMNS.values()]]
    for task in tasks:
        rows.append([task or 'all', *(_number(metrics.get(_key(task, m))) for m in _COLUMNS)])
    return _markdown_table(rows)


def format_metrics(title: str, history: History, test: 'dict[str, Any]') -> str:
    """Return the report's table in Markdown.

    Args:
        title: Heading of the whole.
        history: From :func:`read_history`.
        test: From :func:`read_test`.
    """
    parts = [f'# {title}\n', f'Trained for {history.train[-1]["iteration"]} iterations.\n']
    evaluations = [record for record in history.evaluations if _headline(record)]
    if evaluations:
        last = evaluations[-1]
        columns = _headline(last)
        rows = [['iteration', *columns]]
        for record in evaluations:
            values = (_number(record.get(key)) for key in columns.values())
            rows.append([str(record['iteration']), *values])
        parts += [f'## Last evaluation, at iteration {last["iteration"]}\n', _metrics_table(last)]
        if _tasks(last):
            parts.append(
                'From 0 to 1; mAP is the mean over classes and over IoU thresholds from 0.50 to '
                '0.95, as are the values by object size. –: not measured, or no such object.\n'
            )
        parts += ['## History\n', _markdown_table(rows)]
    else:
        parts.append('No evaluation was logged.\n')
    if _headline(test):
        parts += ['## Test, the latest run of tools/test.py\n', _metrics_table(test)]
    return '\n'.join(parts)


# ---------------------------------------------------------------------------------------- curves


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the centred moving average over a twentieth of the run."""
    window = np.ones(max(1, len(values) // 20))
    return np.convolve(values, window, 'same') / np.convolve(np.ones_like(values), window, 'same')


def _series(records: 'Iterable[dict]', key: str) -> 'tuple[np.ndarray, np.ndarray]':
    pairs = [(record['iteration'], record[key]) for record in records if key in record]
    x, y = np.array(pairs, float).reshape(-1, 2).T
    return x, y


def plot_curves(history: History, path: str | Path) -> None:
    """Draw loss, learning rate and mAP over iterations into an image file.

    Args:
        history: From :func:`read_history`.
        path: File to write, e.g. ``curves.png``.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: Agg, and no global state
    except ImportError:
        raise ImportError('curves need matplotlib: run `pip install "mmws[demo]"`') from None

    train, evaluations = history
    metrics = _headline(evaluations[-1]) if evaluations else {}
    figure = Figure(figsize=(9, 10 if metrics else 7), dpi=120, layout='constrained')
    heights = [2, 1, 1.6] if metrics else [2, 1]
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)

    x, total = _series(train, 'loss')
    axes[0].plot(x, total, color='black', alpha=0.25, linewidth=1)
    axes[0].plot(x, _smooth(total), color='black', linewidth=2, label='loss (sum)')
    parts = sorted({key for record in train for key in record if 'loss' in key} - {'loss'})
    # A head per decoder layer may log dozens: the largest say most.
    parts = sorted(parts, key=lambda key: -np.nanmean(_series(train, key)[1]))[: len(OKABE_ITO)]
    for key, colour in zip(parts, OKABE_ITO):
        x, y = _series(train, key)
        axes[0].plot(x, _smooth(y), color=colour, linewidth=1.5, label=key)
    if any('loss' in record for record in evaluations):
        x, y = _series([record for record in evaluations if 'loss' in record], 'loss')
        axes[0].plot(x, y, 'o--', color='black', clip_on=False, label='loss (validation)')
    axes[0].set_ylabel('training loss\n(moving average)')
    axes[0].set_ylim(bottom=0)

    axes[1].plot(*_series(train, 'lr'), color=OKABE_ITO[0], label='lr')
    axes[1].set_ylabel('learning rate')
    axes[1].set_ylim(bottom=0)

    for (label, key), colour, marker in zip(metrics.items(), OKABE_ITO, 'osD^vP'):
        x, y = _series(evaluations, key)
        axes[2].plot(x, y, color=colour, marker=marker, clip_on=False, label=label)
    if metrics:
        has_ap = bool(_tasks(evaluations[-1]))
        axes[2].set_ylabel('mAP, from 0 to 1\n(validation)' if has_ap else 'validation')
        axes[2].set_ylim(bottom=0)

    axes[-1].set_xlabel('iteration')
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(loc='center left', bbox_to_anchor=(1.0, 0.5), frameon=False)
        axis.spines[['top', 'right']].set_visible(False)
    figure.savefig(path)


# -------------------------------------------------------------------------------------- pictures


def draw_predictions(
    config: Config, checkpoint: str | Path, folder: str | Path, num_pictures: int
) -> int:
    """Draw ground truth, left, and predictions, right, for the first images of the test split.

    Args:
        config: Its ``test_dataloader.dataset`` names the images.
        checkpoint: Weights to predict with.
        folder: Where ``<image name>.png`` goes.
        num_pictures: At most so many.

    Returns:
        The number of pictures.
    """
    count = 0
    for _, path, image, sample, painter in predicted_samples(
        config, checkpoint, limit=num_pictures
    ):
        drawn = draw(painter, np.ascontiguousarray(image[..., ::-1]), sample)
        imwrite(drawn[..., ::-1], str(Path(folder) / f'{path.stem}.png'))
        count += 1
    return count


# -------------------------------------------------------------------------------------- the whole


def _find_checkpoint(work_dir: Path, checkpoint: str | Path | None) -> str:
    checkpoint = checkpoint or last_checkpoint(work_dir)
    if checkpoint is None:
        raise FileNotFoundError(f'{work_dir} names no last_checkpoint: give one, `checkpoint`')
    Checkpoint.read(checkpoint)
    return str(checkpoint)


def write_report(
    work_dir: str | Path,
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    out_dir: str | Path | None = None,
    num_pictures: int = 8,
) -> Path:
    """Write ``metrics.md``, ``curves.png``, ``predictions/*.png`` and ``report.html`` of a run.

    ``report.html`` is one file with everything in it: metrics, curves, a table by class, which
    classes are taken for which, and the worst and best of the first 100 test images.

    Args:
        work_dir: Where ``tools/train.py`` put its logs and checkpoints.
        config: The config of the run, or its file.
        checkpoint: Weights to predict with; the last ones in ``work_dir`` if None.
        out_dir: Folder to write into; ``<work_dir>/report`` if None.
        num_pictures: Number of test images to draw; with 0, no checkpoint is needed. Only of
            detectors: other models get metrics and curves.

    Returns:
        The folder written.

    Raises:
        FileNotFoundError: If there is no log, or no such checkpoint.
        ImportError: If matplotlib is not installed.
        ValueError: If the config or the checkpoint cannot be read.
    """
    work_dir = Path(work_dir)
    history = read_history(work_dir)
    title = work_dir.resolve().name
    if not isinstance(config, Config):
        title = Path(config).stem
        config = load_config(config)
    draws = num_pictures > 0 and other_library(config) is None
    weights = _find_checkpoint(work_dir, checkpoint) if draws else ''

    out_dir = Path(out_dir) if out_dir is not None else work_dir / 'report'
    out_dir.mkdir(parents=True, exist_ok=True)
    plot_curves(history, out_dir / 'curves.png')
    examination, pictures = None, []
    if draws:
        draw_predictions(config, weights, out_dir / 'predictions', num_pictures)
        examination = examine(config, weights)
        pictures = draw_extremes(config, weights, examination, num_pictures)
    # Last, so that it stands for the whole.
    text = format_metrics(title, history, read_test(work_dir))
    summary = [f'Run of {work_dir}' + (f', weights {Path(weights).name}' if weights else '')]
    page = out_dir / 'report.html'
    write_page(page, title, summary, text, out_dir / 'curves.png', examination, pictures)
    (out_dir / 'metrics.md').write_text(text, encoding='utf-8')
    return out_dir
