"""From what the user has to two COCO files: recognize, convert, split and correct."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..coco_check import CocoReport, check_entries
from ..coco_check.images import check_files
from ..coco_check.reader import read_text
from ..errors import DataError
from ..importers import FORMATS, Imported, class_names, find_coco, join_coco, read_coco
from ..mend import Mending, mended_data
from ..split import split_coco
from ..voc import convert_voc, has_masks, is_sbd, is_voc
from ..voc.splits import EVERY_IMAGE
from .written import Written

DEFAULT_VAL_FRACTION = 0.2  # of a data set that is recognized and has no split


@dataclass
class Options:
    """What the user asked for; the arguments of :func:`mmws.data.new_config.new_config`."""

    written: Written
    masks: bool | None = None
    val_fraction: float | None = None
    seed: int = 0
    group_by: str | None = None
    fix: bool = False
    splits: Sequence[str] = ('train', 'val')
    classes: Sequence[str] | None = None


@dataclass
class Source:
    """COCO files to train and to evaluate on.

    Attributes:
        train: Annotation file to train on.
        val: Annotation file to evaluate on; ``None``: train without an evaluation.
        dirs: Folders of their images; ``None``: look near the files.
        masks: Whether the annotations have masks.
        notes: What was recognized, converted, split and corrected, one line each.
        warnings: What was left out, one line each.
    """

    train: str
    val: str | None
    dirs: list[str | None]
    masks: bool = True
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def find_source(path: str | Path, options: Options) -> Source:
    """Recognize a data set: a COCO file, or a folder in one of the formats known.

    Raises:
        DataError: if the data set is broken, or cannot be split.
        FileNotFoundError: if nothing is there, or nothing is recognized.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist')
    is_cvat, import_cvat = FORMATS['CVAT']
    if is_cvat(path):  # its XML would pass for VOC's
        return from_import(import_cvat(path), options)
    if path.is_dir() and (is_voc(path) or is_sbd(path)):
        return from_voc(path, options, must_have_lists=False)
    is_yolo, import_yolo = FORMATS['YOLO']
    if is_yolo(path):
        return from_import(import_yolo(path), options)
    found = find_coco(path)
    if found:
        return from_coco(found, options)
    is_labelme, import_labelme = FORMATS['LabelMe']
    if is_labelme(path):
        return from_import(import_labelme(path), options)
    found = find_coco(path, written=True)
    if found:
        return from_coco(found, options)
    raise FileNotFoundError(
        f'{path} holds no data set that is recognized: COCO (a JSON file with images, annotations '
        'and categories), VOC (JPEGImages and Annotations), YOLO (a YAML file with names, or '
        'images and labels), LabelMe (a JSON file for each image) or CVAT (annotations.xml)'
    )


def from_coco(found: dict[str, list[Path]], options: Options) -> Source:
    """Use COCO files as they are, or join and split those that have no split."""
    train, val, unsplit = (_instances(found.get(split, [])) for split in ('train', 'val', 'all'))
    if len(train) == 1 and len(val) == 1:
        source = Source(str(train[0]), str(val[0]), [None, None])
        source.notes.append(f'recognized COCO files {train[0]} and {val[0]}')
        return source
    has_split = bool(train and val)
    files = [*train, *val] if has_split else _instances([*train, *val, *unsplit])
    if len(files) == 1:
        return split_file(files[0], None, options)
    options.written.reads(files)
    notes = [f'recognized {len(files)} COCO files, which are joined: {_few(map(str, files))}']
    parts = _read_sound(files, None, options, notes)
    root = os.path.commonpath([os.path.abspath(folder) for _, folder in parts])
    prefixed = [(data, _prefix(folder, root)) for data, folder in parts]
    if not has_split:
        return _split_data(join_coco(prefixed), root, options, notes, root)
    classes = class_names(data for data, _ in parts)
    halves = prefixed[: len(train)], prefixed[len(train) :]
    joined = [join_coco(half, classes) for half in halves]
    return _write_parts(joined[0], joined[1], root, options, notes)


def _instances(files: list[Path]) -> list[Path]:
    """Leave out files of the same images with key points and the like."""
    return [file for file in files if 'instances' in file.name] or files


def _read_sound(
    files: Sequence[Path], img_dir: str | Path | None, options: Options, notes: list[str]
) -> list[tuple[dict, str]]:
    """Read COCO files to be split or joined, each with the folder of its images.

    With ``fix`` they are corrected first: an annotation that names its image by an id of another
    type would be on neither side of a split.
    """
    if not options.fix:
        return [
            (read_coco(file), str(img_dir) if img_dir is not None else _located(file))
            for file in files
        ]
    if options.masks is None:
        reports = [check_entries(file, masks=True) for file in files]
        instances = sum(report.instances for report in reports)
        options.masks = not instances or 2 * sum(r.masks for r in reports) > instances
    parts = []
    for file in files:
        try:
            data, found = mended_data(file, img_dir, options.masks)
        except (OSError, ValueError, RecursionError):
            data, found = read_coco(file), Mending(str(file))  # which tells what is wrong
        if found.changes:
            notes += [f'{file} was corrected, in the new files:', *found.table()]
        if img_dir is None and found.img_dir is None:
            _located(file)  # which tells where they were looked for
        parts.append((data, str(img_dir if img_dir is not None else found.img_dir)))
    return parts


def _few(names: Any) -> str:
    names = list(names)
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')


def _located(file: Path) -> str:
    """Return the folder of the images of a COCO file."""
    report = check_entries(file, masks=False)
    if report.file_names:
        check_files(report, None, 'train')
    kinds = ['no_img_dir', 'unreadable', 'not_coco']
    if not report.file_names:
        kinds.append('bad_entries')  # of all images, so that there is no file to look for
    errors = [p.text for p in report.problems if p.kind in kinds]
    if errors or report.img_dir is None:
        raise DataError(errors or [f'{file}: its images are not found near it'])
    return report.img_dir


def _prefix(folder: str, root: str) -> str:
    inside = os.path.relpath(os.path.abspath(folder), root)
    return '' if inside == '.' else f'{inside}/'.replace(os.sep, '/')


def split_file(file: str | Path, img_dir: str | Path | None, options: Options) -> Source:
    """Split one COCO file; without validation images, use it as it is."""
    if options.val_fraction == 0:
        note = f'recognized the COCO file {file}; no validation images'
        return Source(str(file), None, [None if img_dir is None else str(img_dir)], notes=[note])
    notes = [f'recognized the COCO file {file}']
    options.written.reads([file])
    ((data, folder),) = _read_sound([Path(file)], img_dir, options, notes)
    return _split_data(data, folder, options, notes, str(file))


def from_import(imported: Imported, options: Options) -> Source:
    """Write an imported data set as COCO files."""
    images = sum(len(data['images']) for data in imported.splits.values())
    notes = [f'recognized {imported.format}: {images} images in {imported.img_dir}']
    if set(imported.splits) == {'train', 'val'}:
        source = _write_parts(
            imported.splits['train'], imported.splits['val'], str(imported.img_dir), options, notes
        )
    else:
        data = next(iter(imported.splits.values()))
        folder = str(imported.img_dir)
        source = _split_data(data, folder, options, notes, folder)
    source.warnings += imported.warnings
    return source


def from_voc(root: Path, options: Options, must_have_lists: bool = True) -> Source:
    """Convert a VOC or SBD tree; without the lists of its splits, split all its images."""
    boxes = None if options.masks is None else not options.masks
    has_xml = (root / 'Annotations').is_dir() or not has_masks(root)
    if is_sbd(root) or (boxes and not has_xml):
        boxes = None  # their boxes are those of the masks
    masks = has_masks(root) if boxes is None else not boxes
    lists = root if is_sbd(root) else root / 'ImageSets' / ('Segmentation' if masks else 'Main')
    has_lists = all((lists / f'{split}.txt').is_file() for split in options.splits)
    if options.val_fraction is None and (has_lists or must_have_lists):
        out_dir = None if os.access(root, os.W_OK) else options.written.folder
        converted = {
            r.split: r
            for r in convert_voc(root, options.splits, options.classes, boxes, out_dir=out_dir)
        }
        reports = [converted[split] for split in options.splits]
        source = Source(reports[0].path, reports[1].path, [r.img_dir for r in reports], masks)
    else:
        reports = convert_voc(
            root, [EVERY_IMAGE], options.classes, boxes, out_dir=options.written.folder
        )
        data = read_coco(Path(reports[0].path))
        note = f'recognized VOC: {reports[0].images} images in {reports[0].img_dir}'
        source = _split_data(data, reports[0].img_dir, options, [note], str(root))
    source.warnings += [f'{r.split}: {warning}' for r in reports for warning in r.warnings]
    return source


def _split_data(data: dict, img_dir: str, options: Options, notes: list[str], where: str) -> Source:
    """Split a data set that was read from `where`, which messages name."""
    fraction = options.val_fraction
    if fraction is None:
        fraction = DEFAULT_VAL_FRACTION
    if fraction == 0:
        return _write_parts(data, None, img_dir, options, [*notes, 'no validation images'])
    try:
        train, val = split_coco(data, fraction, options.seed, options.group_by)
    except (KeyError, TypeError):
        raise DataError(
            [
                f'{where}: an image has no id or file_name, or an annotation no image_id, or they '
                'are no numbers or texts: no split is possible'
            ]
        ) from None
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from None
    how = f'split by seed {options.seed}'
    how += f' and groups {options.group_by!r}' if options.group_by else ''
    note = f'{how}: {len(train["images"])} images to train on, {len(val["images"])} to evaluate'
    return _write_parts(train, val, img_dir, options, [*notes, note])


def _write_parts(
    train: dict, val: dict | None, img_dir: str, options: Options, notes: list[str]
) -> Source:
    paths = []
    for name, data in (('train', train), ('val', val)):
        if data is not None:
            paths.append(options.written.write(name, data))
    notes = [*notes, f'wrote {" and ".join(map(options.written.final, paths))}']
    return Source(paths[0], paths[1] if val is not None else None, [img_dir, img_dir], notes=notes)


def made_readable(source: Source, options: Options) -> None:
    """Replace files that MMDetection does not read because of their first bytes by copies."""

    def convert(path: str, split: str) -> str:
        with open(path, 'rb') as file:
            plain = json.detect_encoding(file.read(4)) == 'utf-8'
        if plain:
            return path
        try:
            data = json.loads(read_text(path)[0])
        except (ValueError, RecursionError):
            return path  # the check names it
        if not isinstance(data, dict):
            return path
        copy = options.written.write(split, data)
        source.notes.append(
            f'{path} begins with a byte order mark: {options.written.final(copy)} is a copy '
            'without it'
        )
        # Where the images are found must not depend on where the copy lies.
        _keep_folder(source, split, path)
        return copy

    _each(source, convert)


def mended(source: Source, masks: bool, options: Options) -> None:
    """Replace files by corrected copies, and note what was changed in them."""

    def convert(path: str, split: str) -> str:
        _keep_folder(source, split, path)
        folder = source.dirs[0 if split == 'train' else -1]
        try:
            data, found = mended_data(path, folder, masks, split)
        except (ValueError, RecursionError):
            return path  # no COCO file at all, which the check tells
        if not found.changes:
            return path
        index = 0 if split == 'train' else len(source.dirs) - 1
        source.dirs[index] = source.dirs[index] or found.img_dir
        new = options.written.write(split, data)
        was, is_ = options.written.final(path), options.written.final(new)
        source.notes.append(f'{was} was corrected; {is_} is the new file:')
        source.notes += found.table()
        return new

    _each(source, convert)


def _each(source: Source, convert: Callable[[str, str], str]) -> None:
    """Replace the files of a source by what ``convert(path, split)`` returns.

    Files that are not there stay: the check names them.
    """
    if os.path.isfile(source.train):
        source.train = convert(source.train, 'train')
    if source.val is not None and os.path.isfile(source.val):
        source.val = convert(source.val, 'val')


def _keep_folder(source: Source, split: str, path: str) -> None:
    index = 0 if split == 'train' else len(source.dirs) - 1
    if source.dirs[index] is None:
        report: CocoReport = check_entries(path, masks=False)
        if report.file_names:
            check_files(report, None, split)
        if len(source.dirs) == 1:
            source.dirs = source.dirs * 2
            index = 0 if split == 'train' else 1
        source.dirs[index] = report.img_dir
