"""Replace the base's data sets and metrics by the user's."""

from __future__ import annotations

import math
import os
from itertools import takewhile
from typing import Any

from mmws.config.code import Code, assign, is_under
from mmws.config.tree import datasets, kind

from ..coco_check import CocoReport
from .fit import Fit
from .schedule import as_list


def data_section(
    fit: Fit,
    train: CocoReport,
    val: CocoReport | None,
    images_per_gpu: int,
    masks: bool,
    keep_empty: bool,
) -> tuple[str, int]:
    """Return the text that sets the data and the number of images in an epoch."""
    cfg = fit.cfg
    data_root, (train_file, train_dir, val_file, val_dir) = _data_paths(train, val)

    def values(ann_file: str, img_dir: str) -> dict:
        return {
            'type': 'CocoDataset',
            'data_root': Code('data_root'),
            'metainfo': Code('metainfo'),
            'ann_file': ann_file,
            'data_prefix': {'img': img_dir},
        }

    filter_cfg, times = filter_and_repeats(cfg['train_dataloader']['dataset'])
    train_values, note = values(train_file, train_dir), ''
    if train.min_side < filter_cfg.get('min_size', 0):
        # Merged into the base's, so that the rest of it stays.
        train_values['filter_cfg'] = {'min_size': math.floor(train.min_side)}
        note = (
            f'\n# The base skips images with a side below {filter_cfg["min_size"]} pixels; the '
            f'shortest here is {train.min_side}.'
        )
    if keep_empty:
        train_values.setdefault('filter_cfg', {})['filter_empty_gt'] = False
        filter_cfg = {**filter_cfg, 'filter_empty_gt': False}
    if 'train' in fit.pipelines:
        train_values['pipeline'] = fit.pipelines['train']
    train_dataset = dataset_override(
        cfg['train_dataloader']['dataset'],
        '_base_.train_dataloader.dataset',
        train_values,
        {'filter_cfg': filter_cfg},
    )
    lines = [
        '# Relative paths are relative to where training is started.' + note,
        assign('data_root', data_root),
        '# batch_size is per GPU.',
        assign('train_dataloader', {'batch_size': images_per_gpu, 'dataset': train_dataset}),
    ]
    skips_empty = filter_cfg.get('filter_empty_gt', False)
    images = train.images_with_instances if skips_empty else train.images
    if val is None:
        lines.append('# There are no images to evaluate on.')
        lines += [
            f'{split}_{name} = None'
            for split in ('val', 'test')
            for name in ('dataloader', 'evaluator', 'cfg')
        ]
        return '\n'.join(lines), images * times
    val_values = values(val_file, val_dir)
    if 'val' in fit.pipelines:
        val_values['pipeline'] = fit.pipelines['val']
    val_json = Code(f'data_root + {val_file!r}')
    for split in ('val', 'test'):
        loader, evaluator = cfg.get(f'{split}_dataloader'), cfg.get(f'{split}_evaluator')
        if not loader or not evaluator:
            continue
        if split == 'test' and (loader, evaluator) == (cfg['val_dataloader'], cfg['val_evaluator']):
            lines += ['test_dataloader = val_dataloader', 'test_evaluator = val_evaluator']
            continue
        dataset = dataset_override(
            loader['dataset'],
            f'_base_.{split}_dataloader.dataset',
            val_values,
            {'test_mode': True},
        )
        lines += [
            assign(f'{split}_dataloader', {'dataset': dataset}),
            assign(f'{split}_evaluator', evaluator_override(evaluator, val_json, masks)),
        ]
    return '\n'.join(lines), images * times


def dataset_override(dataset: dict, code: str, values: dict, fallback: dict) -> dict:
    """Return what turns the base's ``dataset`` into the user's.

    Args:
        dataset: ``dataset`` of a data loader; wrappers such as ``RepeatDataset`` are kept.
        code: Expression for it in the config that is written.
        values: Settings of the user's data set.
        fallback: Further settings for where the base's are of no use.
    """
    path, first = next(datasets(dataset))
    wrappers = tuple(takewhile(lambda key: key == 'dataset', path))
    if kind(first) == 'CocoDataset' and path == wrappers:
        override = values
    else:
        # Another format or a concatenation: only the pipeline of the base's data set is kept.
        code += ''.join(f'[{key}]' if isinstance(key, int) else f'.{key}' for key in path)
        override = {
            '_delete_': True,
            'type': 'CocoDataset',
            'pipeline': Code(f'{code}.pipeline'),
            **fallback,
            **values,
        }
    for key in wrappers:
        override = {key: override}
    return override


def filter_and_repeats(dataset: dict) -> tuple[dict, int]:
    """Return ``filter_cfg`` of the innermost data set and how often an epoch repeats that."""
    chain = [d for path, d in datasets(dataset, wrappers=True) if {*path} <= {'dataset'}]
    times = math.prod(d['times'] for d in chain if kind(d) == 'RepeatDataset')
    if kind(chain[-1]) == 'CocoDataset':
        return chain[-1].get('filter_cfg') or {}, times
    return {'filter_empty_gt': True}, times


def coco_prefix(evaluator: Any) -> str | None:
    """Return what a metric that reads COCO files puts before its numbers; ``None`` for others."""
    if kind(evaluator) == 'CocoMetric':
        return evaluator.get('prefix') or 'coco'
    # MMDetection's metric of this name reads no annotation file.
    if kind(evaluator) == 'VOCMetric' and evaluator['type'].startswith('mmws.'):
        return evaluator.get('prefix') or 'voc'
    return None


def evaluator_override(evaluator: Any, ann_file: Code, masks: bool) -> dict:
    """Return what makes the base's metric read the user's annotation file."""
    if coco_prefix(evaluator) is not None:
        metrics = as_list(evaluator.get('metric') or 'bbox')
        kept = [metric for metric in metrics if masks or metric != 'segm']
        changed: dict[str, Any] = {} if kept == metrics else {'metric': kept or ['bbox']}
        if evaluator['type'] in ('CocoMetric', 'mmdet.CocoMetric'):
            # MMDetection's has no value where nothing is detected, and `save_best` needs one.
            changed['type'] = 'mmws.CocoMetric'
        return {'ann_file': ann_file, **changed}
    metric = ['bbox', 'segm'] if masks else ['bbox']
    return {'_delete_': True, 'type': 'mmws.CocoMetric', 'metric': metric, 'ann_file': ann_file}


def _data_paths(train: CocoReport, val: CocoReport | None) -> tuple[str, list[str]]:
    """Return ``data_root`` and, relative to it, train file, train images, val file, val images."""
    reports = (train, val or train)
    files = [report.path for report in reports]
    folders = [report.img_dir or '' for report in reports]
    root = os.path.commonpath(
        [os.path.abspath(path) for path in [*map(os.path.dirname, files), *folders]]
    )
    inside = [os.path.relpath(path, root) for path in (files[0], folders[0], files[1], folders[1])]
    # MMDetection's way: relative to where training is started, for data under it.
    shown = os.path.relpath(root) if is_under(root, os.getcwd()) else root
    return os.path.join(shown, ''), ['' if path == '.' else path for path in inside]
