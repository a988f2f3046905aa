"""Check a data set and write the config that trains on it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mmws.config.code import base_path, write_config

from ..coco_check import CocoReport
from ..coco_check.cache import cached_check
from ..errors import DataError
from ..voc import has_masks
from .base import choose_base, load_base, reads_masks
from .comparison import class_errors, comparison_warnings, rle_errors, sort_problems
from .fit import Fit, fit_to_data
from .raw import read_raw
from .sources import Options, Source, find_source, from_voc, made_readable, mended, split_file
from .start import find_start
from .text import command_line, config_text
from .written import Written


@dataclass
class NewConfig:
    """A config that was written, and what was found in its data.

    Attributes:
        path: The config file.
        train: Report on the training annotations.
        val: Report on the validation annotations; ``None`` without them.
        length: Length of the training, e.g. ``'120 epochs'``.
        notes: What was recognized, converted and chosen, one line each.
        warnings: What the user should know, one line each.
    """

    path: str
    train: CocoReport
    val: CocoReport | None
    length: str
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def summary(self, rows: int = 10) -> str:
        """Return the report for the terminal, with the ``rows`` most frequent classes."""
        lines = list(self.notes)
        for split, report in (('train', self.train), ('val', self.val)):
            if report is not None:
                lines.append(
                    f'{split}: {report.images} images, {report.instances} instances '
                    f'({report.crowds} crowds), {len(report.classes)} classes; {report.img_dir}'
                )
        in_val = self.val.counts if self.val is not None else (0,) * len(self.train.counts)
        table = sorted(zip(self.train.counts, in_val, self.train.classes), reverse=True)
        lines.append(f'{"train":>8} {"val":>8}  class')
        lines += [f'{train:>8} {val:>8}  {name}' for train, val, name in table[:rows]]
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
    data: str | Path | None = None,
    val_fraction: float | None = None,
    seed: int = 0,
    group_by: str | None = None,
    masks: bool | None = None,
    narrow: bool = False,
    start: str | None = None,
    fix: bool = False,
    keep_empty: bool = False,
    check_images: bool = False,
    raw_images: bool = False,
) -> NewConfig:
    """Check a data set and write the config that trains on it.

    The data are COCO files, a tree in VOC's layout, or ``data``, whose format is recognized: COCO,
    VOC, YOLO, LabelMe or CVAT. What is converted, split or corrected goes to files in
    ``<out without .py>_data``; a VOC tree with lists of its splits is converted to
    ``<voc>/annotations`` where that can be written.

    Args:
        train_json: COCO instances file to train on.
        val_json: COCO instances file to evaluate on.
        img_dirs: Image folders of train and val, or one for both. ``None``: look near the files.
        base: Config to inherit from, a path or ``mmdet::folder/name.py``. ``None``: Mask R-CNN
            where there are masks, Faster R-CNN for boxes, fitted to the sizes of the data.
        images_per_gpu: Images per GPU and step.
        out: File to write.
        epochs: Length of the training. ``None``: by :func:`epochs_for`; a base that counts
            iterations keeps its own.
        iters: Length in iterations, for a base that counts them; ``epochs`` excludes it.
        force: Overwrite ``out``.
        voc: A VOC tree, instead of the COCO files: the folder that holds ``JPEGImages``.
        splits: The lists of ``voc`` to train and to evaluate on.
        classes: Class names of ``voc``; ``None``: the 20 of VOC, or those that its files name.
        data: A file or folder of any known format, instead of the COCO files or ``voc``.
        val_fraction: Fraction of the images to evaluate on, where there is no split yet. 0: train
            without an evaluation. ``None``: 0.2 for ``data``; the others need their split.
        seed: Of the split.
        group_by: Images of a group stay on one side of the split; see
            :func:`mmws.data.split.split_coco`.
        masks: Whether to train masks. ``None``: where the base does, or, without a base, where the
            annotations have them.
        narrow: Without a base, take the narrow model, which learns small images from scratch.
        start: Weights to start from: a file or a URL, or ``'none'`` for the backbone's alone.
            ``None``: the published detector of the base's layers, if there is one.
        fix: Correct what can be corrected, in new files; see :func:`mmws.data.mend.mend_coco`.
        keep_empty: Train on images without objects too.
        check_images: Decode all images instead of a sample.
        raw_images: Read images with all of their bits and channels, as many as the files have.

    Raises:
        FileNotFoundError: if the base config or the data are missing.
        FileExistsError: if ``out`` exists and ``force`` is not set, or a COCO file of another
            origin, such as one of the data set itself, is where a new one would go.
        ValueError: if training on the data would crash or be silently wrong, one line for each
            reason; or if the base or an argument does not fit. No config is written, and the files
            of an old one stay.
    """
    out = Path(out)
    _check_arguments(train_json, val_json, img_dirs, base, images_per_gpu, out, epochs, iters, voc,
                     data, val_fraction, narrow)  # fmt: skip
    if out.exists() and not force:
        raise FileExistsError(f'{out} exists: give `force=True` to overwrite it, or another `out`')
    command = command_line(
        {
            '': data,
            'train-json': train_json,
            'val-json': val_json,
            'img-dirs': img_dirs,
            'voc': voc,
            'splits': (voc or None) and splits,
            'classes': classes,
            'val-fraction': val_fraction,
            'seed': seed or None,
            'group-by': group_by,
            'masks': masks or None,
            'boxes': masks is False or None,
            'narrow': narrow or None,
            'from': start,
            'fix': fix or None,
            'keep-empty': keep_empty or None,
            'raw-images': raw_images or None,
            'base': base,
            'images-per-gpu': images_per_gpu,
            'out': out,
            'epochs': epochs,
            'iters': iters,
        }
    )
    given = base is not None
    cfg = load_base(base) if base is not None else None
    if cfg is not None and masks is None:
        masks = reads_masks(cfg)
    if masks is None and voc is not None:
        masks = has_masks(voc)
    written = Written(out.with_name(f'{out.stem}_data'), out)
    options = Options(written, masks, val_fraction, seed, group_by, fix, splits, classes)
    source = _source(train_json, val_json, img_dirs, voc, data, options)
    masks = options.masks  # decided there if the data had to be corrected first
    written.reads(path for path in (source.train, source.val) if path is not None)
    made_readable(source, options)
    if masks is None:
        masks = _have_masks(source)
    if cfg is None:
        base = choose_base(masks, narrow)
        cfg = load_base(base)
    elif masks != reads_masks(cfg):
        wanted = 'masks' if masks else 'boxes alone'
        raise ValueError(f'`base` {base} does not train {wanted}: take another base, or none')
    assert base is not None
    if fix:
        mended(source, masks, options)

    look = partial(cached_check, masks=masks, every_image=check_images, raw=raw_images)
    train = look(source.train, source.dirs[0], split='train')
    val = None
    if source.val is not None:
        val = look(source.val, source.dirs[-1], split='val')
    errors, _ = sort_problems(train, val)
    errors += class_errors(train, val) + rle_errors(cfg, train)
    if errors:
        raise DataError(errors if fix else _with_hint(errors, train, val))
    for report in (train, val):
        if report is not None:
            written.rename(report)
    _, odd = sort_problems(train, val)
    begin = find_start(cfg, start, len(train.classes))
    fit = Fit(cfg) if given else fit_to_data(cfg, train, begin.load_from is None)
    if raw_images:
        read_raw(fit, train)
    warnings = source.warnings + odd + comparison_warnings(train, val)
    text, length = config_text(
        fit, base_path(base, out), command, train, val, masks, images_per_gpu, epochs, iters,
        begin, keep_empty,
    )  # fmt: skip
    write_config(out, text)
    written.finish()
    notes = [*source.notes, f'model: {base}', *fit.notes, *begin.notes]
    return NewConfig(str(out), train, val, length, notes, warnings)


def _source(
    train_json: str | Path | None,
    val_json: str | Path | None,
    img_dirs: Sequence[str | Path] | None,
    voc: str | Path | None,
    data: str | Path | None,
    options: Options,
) -> Source:
    if data is not None:
        return find_source(data, options)
    if voc is not None:
        return from_voc(Path(voc), options)
    dirs: list[str | None] = [str(folder) for folder in img_dirs] if img_dirs else [None]
    if val_json is None:
        assert train_json is not None
        return split_file(train_json, dirs[0], options)
    return Source(str(train_json), str(val_json), [dirs[0], dirs[-1]])


def _have_masks(source: Source) -> bool:
    """Return whether most annotations to train on have a mask."""
    report = cached_check(source.train, source.dirs[0], masks=True)
    # A file that cannot be read is named by the check that follows.
    return not report.instances or 2 * report.masks > report.instances


def _with_hint(errors: list[str], *reports: CocoReport | None) -> list[str]:
    """Say of each error that can be corrected how to have it corrected."""
    problems = [p for report in reports if report is not None for p in report.problems]
    mended = {problem.text for problem in problems if problem.mended}
    return [f'{text} (`fix` does it)' if text in mended else text for text in errors]


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
    data: str | Path | None,
    val_fraction: float | None,
    narrow: bool,
) -> None:
    """Raise ValueError unless the arguments of :func:`new_config` go together."""
    splits_one = train_json is not None and val_json is None and val_fraction is not None
    files = int(train_json is not None) + int(val_json is not None)
    sources = int(voc is not None) + int(data is not None) + int(files > 0)
    if sources != 1 or (files == 1 and not splits_one):
        raise ValueError(
            'give `train_json` and `val_json`, or `voc`, or a file or folder of any known format; '
            'of one file, `train_json`, take `val_fraction` to evaluate on'
        )
    if img_dirs and train_json is None:
        raise ValueError('`img_dirs` goes with `train_json`: the images of `voc` are in its folder')
    if out.suffix != '.py':
        raise ValueError(f'`out` {out}: a config is a .py file')
    if base and '::' not in str(base) and os.path.realpath(base) == os.path.realpath(out):
        raise ValueError(f'`base` and `out` are both {out}: give another `out`')
    if base and narrow:
        raise ValueError('`narrow` chooses a base: leave out `base`')
    if val_fraction is not None and not 0 <= val_fraction < 1:
        raise ValueError(f'`val_fraction` {val_fraction}: must be from 0 to below 1')
    for option, value in (
        ('`images_per_gpu`', images_per_gpu),
        ('`epochs`', epochs),
        ('`iters`', iters),
    ):
        if value is not None and value < 1:
            raise ValueError(f'{option} {value}: must be at least 1')
    if epochs and iters:
        raise ValueError('give `epochs` or `iters`, not both')
    if img_dirs and len(img_dirs) > 2:
        raise ValueError(f'`img_dirs` takes one or two folders, got {len(img_dirs)}')
