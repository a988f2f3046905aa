"""Check a data set and write the config that trains on it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmws.config.code import base_path, write_config

from ..coco_check import CocoReport, check_coco
from ..errors import DataError
from ..voc import convert_voc, has_masks
from .base import BOX_BASE, MASK_BASE, load_base, reads_masks
from .comparison import class_errors, comparison_warnings, rle_errors, sort_problems
from .text import command_line, config_text


@dataclass
class NewConfig:
    """A config that was written, and what was found in its data.

    Attributes:
        path: The config file.
        train: Report on the training annotations.
        val: Report on the validation annotations.
        length: Length of the training, e.g. ``'120 epochs'``.
        warnings: What the user should know, one line each.
    """

    path: str
    train: CocoReport
    val: CocoReport
    length: str
    warnings: list[str] = field(default_factory=list)

    def summary(self, rows: int = 10) -> str:
        """Return the report for the terminal, with the ``rows`` most frequent classes."""
        lines = []
        for split, report in (('train', self.train), ('val', self.val)):
            lines.append(
                f'{split}: {report.images} images, {report.instances} instances '
                f'({report.crowds} crowds), {len(report.classes)} classes; {report.img_dir}'
            )
        table = sorted(zip(self.train.counts, self.val.counts, self.train.classes), reverse=True)
        lines.append(f'{"train":>8} {"val":>8}  class')
        lines += [f'{in_train:>8} {in_val:>8}  {name}' for in_train, in_val, name in table[:rows]]
        if len(table) > rows:
            lines.append(f'{"":>18} and {len(table) - rows} more')
        lines += [f'warning: {warning}' for warning in self.warnings]
        config = shlex.quote(self.path)
        lines.append(f'wrote {self.path} ({self.length}); train with')
        lines.append(f'  tools/dist_train.sh {config} <number of GPUs>')
        lines.append(f'  python tools/train.py {config}')
        return '\n'.join(lines)


def new_config(
    train_json: str | Path | None = None,
    val_json: str | Path | None = None,
    img_dirs: Sequence[str | Path] | None = None,
    base: str | Path | None = None,
    images_per_gpu: int = 1,
    out: str | Path = 'configs/my_data.py',
    epochs: int | None = None,
    iters: int | None = None,
    force: bool = False,
    voc: str | Path | None = None,
    splits: Sequence[str] = ('train', 'val'),
    classes: Sequence[str] | None = None,
) -> NewConfig:
    """Check a data set and write the config that trains ``base`` on it.

    The data are two COCO files, or a tree in VOC's layout, whose splits
    :func:`mmws.data.voc.convert_voc` converts to COCO files in ``<voc>/annotations``: with
    masks where ``base`` trains masks, with the boxes of ``Annotations`` otherwise.

    Args:
        train_json: COCO instances file to train on.
        val_json: COCO instances file to evaluate on.
        img_dirs: Image folders of train and val, or one for both. ``None``: look near the files.
        base: Config to inherit from, a path or ``mmdet::folder/name.py``. ``None``:
            ``MASK_BASE``, or ``BOX_BASE`` for a VOC tree without masks.
        images_per_gpu: Images per GPU and step.
        out: File to write.
        epochs: Length of the training. ``None``: by :func:`epochs_for`; a base that counts
            iterations keeps its own.
        iters: Length in iterations, for a base that counts them; ``epochs`` excludes it.
        force: Overwrite ``out``.
        voc: A VOC tree, instead of the COCO files: the folder that holds ``JPEGImages``.
        splits: The lists of ``voc`` to train and to evaluate on.
        classes: Class names of ``voc``; the 20 of VOC if ``None``.

    Raises:
        FileNotFoundError: if the base config or the VOC tree is missing.
        FileExistsError: if ``out`` exists and ``force`` is not set, or a COCO file of another
            origin is where the VOC tree's would go.
        ValueError: if training on the data would crash or be silently wrong, one line for each
            reason; or if the base or an argument does not fit. No config is written.
    """
    out = Path(out)
    _check_arguments(train_json, val_json, img_dirs, base, images_per_gpu, out, epochs, iters, voc)
    if out.exists() and not force:
        raise FileExistsError(f'{out} exists: give `force=True` to overwrite it, or another `out`')
    command = command_line(
        {
            'train_json': train_json,
            'val_json': val_json,
            'img_dirs': img_dirs,
            'voc': voc,
            'splits': voc and splits,
            'classes': classes,
            'base': base,
            'images_per_gpu': images_per_gpu,
            'out': out,
            'epochs': epochs,
            'iters': iters,
        }
    )
    if base is None:
        base = MASK_BASE if voc is None or has_masks(voc) else BOX_BASE

    cfg = load_base(base)
    masks = reads_masks(cfg)
    dirs: list[str | Path | None] = list(img_dirs) if img_dirs else [None, None]
    warnings: list[str] = []
    if voc is not None:
        # Boxes are annotated in more images than masks are; SBD has masks alone.
        boxes = not masks and Path(voc, 'Annotations').is_dir()
        converted = {r.split: r for r in convert_voc(voc, splits, classes, boxes)}
        reports = [converted[split] for split in splits]
        train_json, val_json = (report.path for report in reports)
        dirs = [report.img_dir for report in reports]
        warnings += [f'{r.split}: {warning}' for r in reports for warning in r.warnings]
    assert train_json is not None
    assert val_json is not None
    train = check_coco(train_json, dirs[0], masks=masks, split='train')
    val = check_coco(val_json, dirs[-1], masks=masks, split='val')
    errors, odd = sort_problems(train, val)
    errors += class_errors(train, val) + rle_errors(cfg, train)
    if errors:
        raise DataError(errors)
    warnings += odd + comparison_warnings(train, val)

    text, length = config_text(
        cfg, base_path(base, out), command, train, val, masks, images_per_gpu, epochs, iters
    )
    write_config(out, text)
    return NewConfig(str(out), train, val, length, warnings)


def _check_arguments(
    train_json: str | Path | None,
    val_json: str | Path | None,
    img_dirs: Sequence[str | Path] | None,
    base: str | Path | None,
    images_per_gpu: int,
    out: Path,
    epochs: int | None,
    iters: int | None,
    voc: str | Path | None,
) -> None:
    """Raise ValueError unless the arguments of :func:`new_config` go together."""
    files = [train_json, val_json]
    if files.count(None) == (0 if voc is not None else 2) or files.count(None) == 1:
        raise ValueError('give `train_json` and `val_json`, or `voc`')
    if voc is not None and img_dirs:
        raise ValueError('`img_dirs` goes with `train_json`: the images of `voc` are in its folder')
    if out.suffix != '.py':
        raise ValueError(f'`out` {out}: a config is a .py file')
    if base and '::' not in str(base) and os.path.realpath(base) == os.path.realpath(out):
        raise ValueError(f'`base` and `out` are both {out}: give another `out`')
    for argument, value in (
        ('images_per_gpu', images_per_gpu),
        ('epochs', epochs),
        ('iters', iters),
    ):
        if value is not None and value < 1:
            raise ValueError(f'`{argument}` {value}: must be at least 1')
    if epochs and iters:
        raise ValueError('give `epochs` or `iters`, not both')
    if img_dirs and len(img_dirs) > 2:
        raise ValueError(f'`img_dirs` takes one or two folders, got {len(img_dirs)}')
