"""Check what needs both annotation files, or the base."""

from __future__ import annotations

import os

from mmws.config.tree import walk

from ..coco_check import CocoReport
from ..preflight import FATAL_IN_EVALUATION


def sort_problems(train: CocoReport, val: CocoReport | None) -> tuple[list[str], list[str]]:
    """Return the errors and the warnings in both files."""
    errors: list[str] = []
    warnings: list[str] = []
    for report in (train, val) if val is not None else (train,):
        for problem in report.problems:
            fatal = problem.severity == 'error' or (
                report is val and problem.kind in FATAL_IN_EVALUATION
            )
            (errors if fatal else warnings).append(problem.text)
    return errors, warnings


def class_errors(train: CocoReport, val: CocoReport | None) -> list[str]:
    """Return an error if the two files list different categories, or the same in another order."""
    # A file without classes could not be read, which is reported already.
    if val is None or train.classes == val.classes or not train.classes or not val.classes:
        return []
    odd = sorted(set(train.classes) ^ set(val.classes))
    how = f'only one has {few(odd)}' if odd else 'the order differs'
    return [
        f"{train.path} and {val.path}: 'categories' differ ({how}): give both files the same list "
        'in the same order, as MMDetection numbers classes by it'
    ]


def rle_errors(cfg: dict, train: CocoReport) -> list[str]:
    """Return an error if the base ignores RLE masks and the training data have some."""
    settings = walk(cfg['train_dataloader'], ('train_dataloader',))
    ignores_rle = any(path[-1] == 'poly2mask' and not value for path, value in settings)
    if not (ignores_rle and train.rle_masks):
        return []
    return [
        f'{train.path}: {train.rle_masks} masks are RLE, which the base ignores: convert them to '
        'polygons, or take a `base` without LoadAnnotations(poly2mask=False)'
    ]


def comparison_warnings(train: CocoReport, val: CocoReport | None) -> list[str]:
    """Return warnings about classes and images that are odd between training and validation."""
    if val is None:
        bare = [name for name, n in zip(train.classes, train.counts) if not n]
        return [f'{len(bare)} classes have no annotation at all: {few(bare)}'] if bare else []
    rows = list(zip(train.classes, train.counts, val.counts))
    found = [
        ('classes appear in train only', [name for name, n, m in rows if n and not m]),
        ('classes appear in val only', [name for name, n, m in rows if m and not n]),
        ('classes have no annotation at all', [name for name, n, m in rows if not n and not m]),
        (
            'images are both in train and val, so the metrics mean little',
            sorted(_image_paths(train) & _image_paths(val)),
        ),
    ]
    return [f'{len(names)} {what}: {few(names)}' for what, names in found if names]


def few(names: list[str]) -> str:
    """Return the first five names as text."""
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')


def _image_paths(report: CocoReport) -> set[str]:
    folder = os.path.realpath(report.img_dir or '')
    return {os.path.join(folder, name) for name in report.file_names}
