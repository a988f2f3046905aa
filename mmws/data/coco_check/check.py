"""Read a COCO instances file and look for all kinds of problems."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .boxes import check_boxes
from .fields import Fault, annotation_fault, category_fault, image_fault
from .images import check_files
from .kinds import KINDS
from .masks import check_mask
from .pixels import check_pixels
from .reader import LISTS, entries_of, read_text
from .report import CocoReport


def check_coco(
    json_path: str | Path,
    img_dir: str | Path | None = None,
    masks: bool = True,
    split: str = 'train',
    every_image: bool = False,
) -> CocoReport:
    """Read and check a COCO instances file; a bad file is reported, not raised.

    ``classes`` are in the order of the file's ``categories``, whatever their ids: MMDetection
    numbers labels by that order, not by the order of ``metainfo['classes']``.

    Every annotation is looked at. Folders are listed once, and a sample of 200 images is decoded.

    Args:
        json_path: Annotation file.
        img_dir: Folder the file names are relative to. ``None``: look for it near the file.
        masks: Whether masks are trained, so that annotations need one.
        split: ``'train'`` or ``'val'``, names the folders to look for.
        every_image: Decode all images instead of a sample.
    """
    report = check_entries(json_path, masks)
    if report.file_names:
        check_files(report, img_dir, split)
        if report.img_dir is not None:
            check_pixels(report, every_image)
    return report


@dataclass
class _Entries:
    """The sound entries of a file, and the faults of the others."""

    images: list[dict] = field(default_factory=list)
    categories: list[dict] = field(default_factory=list)
    ids: list[int | str] = field(default_factory=list)
    image_ids: list[int | str] = field(default_factory=list)
    category_ids: list[int | str] = field(default_factory=list)
    numbers: array = field(default_factory=lambda: array('d'))  # bbox and area, 5 for each
    crowd: list[bool] = field(default_factory=list)
    usable: list[bool] = field(default_factory=list)  # masks
    is_rle: list[bool] = field(default_factory=list)
    mask_sizes: dict[int, tuple[int, int]] = field(default_factory=dict)  # of RLEs, by row
    # Entries by (kind, what is wrong); ids, or positions where the id itself is bad.
    faults: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)  # lists that the file has

    def fault(self, kind: str, what: str, where: Any) -> None:
        self.faults.setdefault((kind, what), []).append(where)


def check_entries(json_path: str | Path, masks: bool = True) -> CocoReport:
    """Check an annotation file alone, without its images; see :func:`check_coco`."""
    report = CocoReport(str(json_path))
    entries = _read(Path(json_path), report)
    if entries is None:
        return report
    _report_faults(report, entries, masks)
    categories, images = entries.categories, entries.images

    report.classes = tuple(category['name'] for category in categories)
    report.file_names = tuple(image['file_name'] for image in images)
    report.sizes = tuple((int(image['width']), int(image['height'])) for image in images)
    report.min_side = min((min(size) for size in report.sizes), default=0)
    report.instances = len(entries.ids)
    crowd = np.array(entries.crowd, bool)
    report.crowds = int(crowd.sum())
    has_mask = np.array(entries.usable, bool)
    report.masks = int(has_mask.sum())
    report.rle_masks = int((np.array(entries.is_rle, bool) & ~crowd).sum())

    repeated = _repeated(c['id'] for c in categories) + _repeated(report.classes)
    report.add('duplicate_categories', repeated, 'e.g. ')
    report.add('duplicate_image_ids', _repeated(i['id'] for i in images), 'e.g. ')
    report.add('duplicate_annotation_ids', _repeated(entries.ids), 'e.g. ')

    ids = np.array(entries.ids, dtype=object)
    image_row, label = _check_references(report, entries, ids)
    known_image, known_category = image_row >= 0, label >= 0
    report.counts = tuple(np.bincount(label[known_category], minlength=len(categories)).tolist())
    annotated = np.unique(image_row[known_image & known_category])
    report.images_with_instances = len(annotated)
    bare = np.setdiff1d(np.arange(len(images)), annotated)
    report.add('images_without_annotations', [report.file_names[i] for i in bare], 'e.g. ')

    numbers = np.frombuffer(entries.numbers, np.float64).reshape(-1, 5)
    # Boxes of unknown images have no edge to be outside of.
    limits = np.full((len(ids), 2), np.inf)
    if images:
        limits[known_image] = np.array(report.sizes, np.float64)[image_row[known_image]]
    kept = check_boxes(report, numbers[:, :4], numbers[:, 4], limits, ids)
    if masks:
        wrong_size = [
            entries.ids[row]
            for row, (height, width) in entries.mask_sizes.items()
            if known_image[row] and tuple(limits[row]) != (width, height)
        ]
        report.add('mask_sizes', wrong_size, 'annotation ids ')
    reasons = {
        'are crowds (iscrowd), which are neither trained on nor scored': crowd,
        'name no known image (image_id)': ~known_image,
        'name no known category (category_id)': ~known_category,
        'have a box that training drops (bbox, area)': ~kept,
        'have no mask that can be drawn (segmentation)': ~has_mask
        if masks
        else np.zeros(len(ids), bool),
    }
    _require_one(report, reasons, len(ids))
    if images and known_image.any():
        report.max_objects = int(np.bincount(image_row[known_image]).max())
    sides = np.sqrt(np.prod(numbers[kept & ~crowd, 2:4], axis=1))
    if sides.size:
        percentiles = np.percentile(sides, (5, 25, 50, 75, 95))
        report.object_sides = tuple(round(float(side), 1) for side in percentiles)
    return report


def _read(path: Path, report: CocoReport) -> _Entries | None:
    entries = _Entries()
    try:
        text, plain = read_text(path)
        for name, entry in entries_of(text):
            if entry is None and name not in entries.found:
                entries.found.add(name)
            else:
                _READERS[name](entries, entry)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, 'strerror', None) or error
        report.add('unreadable', [f'{type(error).__name__}: {reason}'])
        return None
    except TypeError as error:
        report.add('not_coco', [str(error)])
        return None
    missing = [name for name in LISTS if name not in entries.found]
    if missing:
        report.add('not_coco', [f'no list {missing[0]!r}'])
        return None
    for name, kept in (('images', entries.images), ('categories', entries.categories)):
        if not kept and not any(what.startswith(f"'{name}'") for _, what in entries.faults):
            report.add('not_coco', [f'{name!r} is empty'])
            return None
    report.add('encoding', [] if plain else [''])
    return entries


def _read_image(entries: _Entries, image: Any) -> None:
    fault = image_fault(image)
    if fault:
        entries.fault('bad_entries', _field('images', fault), _name(image, 'file_name'))
    else:
        # Licences and dates of 118,000 images take memory for nothing.
        entries.images.append({k: image[k] for k in ('id', 'file_name', 'width', 'height')})


def _read_category(entries: _Entries, category: Any) -> None:
    fault = category_fault(category)
    if fault:
        entries.fault('bad_entries', _field('categories', fault), _name(category, 'name'))
    else:
        entries.categories.append({'id': category['id'], 'name': category['name']})


def _read_annotation(entries: _Entries, annotation: Any) -> None:
    fault = annotation_fault(annotation)
    if fault:
        entries.fault('bad_entries', _field('annotations', fault), _name(annotation, 'id'))
        return
    identity = annotation['id']
    crowd = annotation.get('iscrowd')
    if 'iscrowd' not in annotation:
        entries.fault('no_iscrowd', '', identity)
    elif type(crowd) not in (int, bool) or crowd not in (0, 1):
        entries.fault('iscrowd_values', '', f'{identity}: {crowd!r}')
    if annotation.get('ignore'):
        entries.fault('ignored', '', identity)
    state = check_mask(annotation.get('segmentation'))
    if state.kind:
        entries.fault(state.kind, state.reason, identity)
    if state.size is not None:
        entries.mask_sizes[len(entries.ids)] = state.size
    entries.ids.append(identity)
    entries.image_ids.append(annotation['image_id'])
    entries.category_ids.append(annotation['category_id'])
    entries.numbers.extend(annotation['bbox'])
    entries.numbers.append(annotation['area'])
    entries.crowd.append(bool(crowd))
    entries.usable.append(state.usable)
    entries.is_rle.append(state.size is not None)


_READERS = {
    'images': _read_image,
    'annotations': _read_annotation,
    'categories': _read_category,
}


def _field(name: str, fault: Fault) -> str:
    field_name, what = fault
    return f"'{name}' whose {field_name!r} {what}" if field_name else f"'{name}' that {what}"


def _name(entry: Any, key: str) -> Any:
    """Return how an entry with a fault is shown: by its name or id, else by its beginning."""
    if isinstance(entry, dict) and isinstance(entry.get(key), (str, int)):
        return entry[key]
    text = repr(entry)
    return text if len(text) < 60 else f'{text[:60]}...'


def _report_faults(report: CocoReport, entries: _Entries, masks: bool) -> None:
    about_masks = ('no_masks', 'bad_masks', 'broken_masks')
    for (kind, what), found in entries.faults.items():
        if kind in about_masks and not masks:
            continue
        if kind == 'bad_entries':
            name, _, rest = what.partition(' ')
            where = {'annotations': 'ids ', 'images': 'e.g. ', 'categories': 'e.g. '}
            report.add(kind, found, where[name.strip("'")], what=f'entries of {name} {rest}')
        elif what and kind in about_masks:
            reason = f'{KINDS[kind].what}: {what}' if what != 'missing' else None
            report.add(kind, found, 'annotation ids ', what=reason)
        else:
            report.add(kind, found, 'ids ')


def _repeated(values: Iterable) -> list:
    return [value for value, count in Counter(values).items() if count > 1]


def _check_references(
    report: CocoReport, entries: _Entries, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of each annotation's image and category, -1 where there is none: (N,) both."""
    rows = []
    for name, known, references in (
        ('image', entries.images, entries.image_ids),
        ('category', entries.categories, entries.category_ids),
    ):
        row_of = {entry['id']: row for row, entry in enumerate(known)}
        row = np.array([row_of.get(value, -1) for value in references], dtype=np.int64)
        as_text = {str(value): value for value in row_of}
        unknown = list(dict.fromkeys(references[i] for i in np.flatnonzero(row < 0)))
        other_type = {value: as_text[str(value)] for value in unknown if str(value) in as_text}
        report.add(
            'id_types',
            [f'{value!r} against {is_!r}' for value, is_ in other_type.items()],
            'e.g. ',
            what=f"values of '{name}_id' that are text while the ids they refer to are numbers, "
            'or the other way round',
        )
        lost = np.array([r < 0 and v not in other_type for r, v in zip(row, references)], bool)
        where = 'annotation ids '
        if name == 'category':
            others = [value for value in unknown if value not in other_type]
            where = f'category ids {", ".join(map(str, others[:5]))}; annotation ids '
            report.add('unknown_categories', ids[lost], where)
        else:
            report.add('unknown_images', ids[lost], where)
        rows.append(row)
    return rows[0], rows[1]


def _require_one(report: CocoReport, reasons: dict[str, np.ndarray], count: int) -> None:
    """Report that no annotation is left, with the reasons, each with its count."""
    lost = np.zeros(count, bool)
    for found in reasons.values():
        lost |= found
    if count and not lost.all():
        return
    told = [f'{int(found.sum())} {reason}' for reason, found in reasons.items() if found.any()]
    if not count:
        if report.problems and any(p.kind == 'bad_entries' for p in report.problems):
            return  # the reason is told already
        told = ["'annotations' is empty"]
    only_boxes = len(told) == 1 and 'box' in told[0]
    report.add(
        'no_annotations',
        [', '.join(told)],
        remedy=None if only_boxes or not count else 'correct the annotations that this names',
    )
