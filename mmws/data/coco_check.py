"""Read a COCO instances file and name what would break or silently spoil training on it.

The checks follow what ``mmdet.datasets.CocoDataset`` and pycocotools do with a file, so each kind
of problem says what becomes of the entries concerned.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from PIL import Image

StrPath = Union[str, Path]

_OPENED_IMAGES = 200  # spread over the file; opening all of COCO takes minutes
_EXIF_ORIENTATION = 274  # 5 to 8: turned by a quarter when read

# kind -> (severity, what is wrong, what to do or what becomes of it). An error crashes training or
# spoils it silently; a warning costs data.
_KINDS = {
    'unreadable': ('error', 'cannot be read', 'give the path of a JSON annotation file'),
    'not_coco': (
        'error',
        'is not a COCO instances file',
        "it must be an object with the lists 'images', 'annotations' and 'categories'",
    ),
    'bad_entries': (
        'error',
        'entries lack a field or have a wrong value in it',
        'MMDetection reads these fields of every entry: add them',
    ),
    'duplicate_categories': (
        'error',
        'category ids or names used twice',
        'MMDetection selects categories by name: make ids and names unique',
    ),
    'duplicate_image_ids': ('error', 'image ids used twice', 'renumber the images'),
    'duplicate_annotation_ids': ('error', 'annotation ids used twice', 'renumber the annotations'),
    'unknown_categories': (
        'error',
        "annotations whose category_id is not in 'categories'",
        'they would be dropped without a word: add the categories or remove the annotations',
    ),
    'no_annotations': (
        'error',
        'no annotation that can be trained on or evaluated',
        'boxes must be [x, y, width, height] in pixels, at least 1x1, inside their image',
    ),
    'no_masks': (
        'error',
        'annotations without a mask while the base config trains masks',
        "add 'segmentation' (a list of polygons, or RLE), or take a --base without a mask head",
    ),
    'mask_sizes': (
        'error',
        'RLE masks of another size than their image',
        "make 'size' of the mask the image's [height, width]",
    ),
    'bad_masks': (
        'warning',
        'masks with a polygon of fewer than 3 points or an odd number of coordinates',
        'training ignores such polygons, COCO evaluation fails on them: remove them',
    ),
    'no_img_dir': (
        'error',
        'its images are in none of the folders tried',
        'name the folder with --img-dirs',
    ),
    'missing_images': (
        'error',
        'image files are missing',
        'put them there, or name the folder with --img-dirs',
    ),
    'bad_images': (
        'error',
        'image files cannot be read',
        'training stops at them: replace them, or remove them from the file',
    ),
    'image_sizes': (
        'error',
        "images whose size is not their 'width' and 'height'",
        'masks and boxes would be misplaced: write the sizes of the files',
    ),
    'no_iscrowd': (
        'warning',
        "annotations without 'iscrowd'",
        'COCO evaluation fails without it: add "iscrowd": 0',
    ),
    'unknown_images': (
        'warning',
        "annotations whose image_id is not in 'images'",
        'they are ignored',
    ),
    'empty_boxes': ('warning', 'boxes with a width or height <= 0', 'training drops them'),
    'tiny_boxes': ('warning', 'boxes below 1x1 pixel or with an area <= 0', 'training drops them'),
    'outside_boxes': ('warning', 'boxes entirely outside their image', 'training drops them'),
    'partly_outside_boxes': (
        'warning',
        'boxes more than 1 pixel over the edge of their image',
        'check the image sizes; are the boxes [x, y, width, height]?',
    ),
    'images_without_annotations': (
        'warning',
        'images without annotations',
        'training skips them unless filter_cfg.filter_empty_gt=False',
    ),
}


@dataclass(frozen=True)
class Problem:
    """One kind of problem in one annotation file.

    Attributes:
        kind: Short name, e.g. ``'empty_boxes'``.
        severity: ``'error'``: training would crash or be wrong; ``'warning'``: data are lost.
        count: How many entries have it.
        examples: The first few of them.
        text: The problem and its remedy in one line that begins with the file.
    """

    kind: str
    severity: str
    count: int
    examples: 'tuple[str, ...]'
    text: str


@dataclass
class CocoReport:
    """What an annotation file holds.

    Attributes:
        path: The annotation file.
        img_dir: Folder its file names are relative to; ``None`` if not found.
        classes: Class names; ``classes[i]`` is MMDetection's label ``i``.
        counts: Annotations of each class, in the order of ``classes``.
        file_names: ``file_name`` of each image.
        instances: Number of annotations, crowds included.
        crowds: Number of annotations with ``iscrowd``.
        rle_masks: Number of masks given as RLE, crowds excluded.
        images_with_instances: Number of images with an annotation of a known category.
        min_side: Shortest side of all images, in pixels.
        problems: What is wrong, worst first.
    """

    path: str
    img_dir: Optional[str] = None
    classes: 'tuple[str, ...]' = ()
    counts: 'tuple[int, ...]' = ()
    file_names: 'tuple[str, ...]' = ()
    instances: int = 0
    crowds: int = 0
    rle_masks: int = 0
    images_with_instances: int = 0
    min_side: int = 0
    problems: 'list[Problem]' = field(default_factory=list)

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.file_names)

    def add(self, kind: str, found: Iterable[Any], where: str = '') -> None:
        """Add a problem of ``kind`` unless ``found``, the entries that have it, is empty."""
        found = list(found)
        if not found:
            return
        severity, what, remedy = _KINDS[kind]
        examples = tuple(str(entry) for entry in found[:3])
        what = f'{len(found)} {what}' if where else what
        more = ', ...' if len(found) > len(examples) else ''
        named = f' ({where}{", ".join(examples)}{more})' if where or examples[0] else ''
        text = f'{self.path}: {what}{named}: {remedy}'
        self.problems.append(Problem(kind, severity, len(found), examples, text))
        self.problems.sort(key=lambda problem: problem.severity)


def check_coco(
    json_path: StrPath, img_dir: Optional[StrPath] = None, masks: bool = True, split: str = 'train'
) -> CocoReport:
    """Read and check a COCO instances file; a bad file is reported, not raised.

    ``classes`` are in the order of the file's ``categories``, whatever their ids: MMDetection
    numbers labels by that order, not by the order of ``metainfo['classes']``.

    Takes time and memory like pycocotools' reader; folders are listed once, 200 images are opened.

    Args:
        json_path: Annotation file.
        img_dir: Folder the file names are relative to. ``None``: look for it near the file.
        masks: Whether masks are trained, so that annotations need one.
        split: ``'train'`` or ``'val'``, names the folders to look for.
    """
    report = CocoReport(str(json_path))
    data = _read(Path(json_path), report)
    if data is None:
        return report

    images, bad_images = _split_sound(data['images'], _is_sound_image)
    annotations, bad_annotations = _split_sound(data['annotations'], _is_sound_annotation)
    categories, bad_categories = _split_sound(data['categories'], _is_sound_category)
    for name, bad, fields in [
        ('images', bad_images, 'id, file_name, height, width'),
        ('annotations', bad_annotations, 'id, image_id, category_id, bbox, area'),
        ('categories', bad_categories, 'id, name'),
    ]:
        report.add('bad_entries', bad, f"'{name}' need {fields}; their index: ")

    report.classes = tuple(category['name'] for category in categories)
    report.file_names = tuple(image['file_name'] for image in images)
    report.instances = len(annotations)
    crowd = np.array([bool(a.get('iscrowd')) for a in annotations], dtype=bool)
    report.crowds = int(crowd.sum())
    report.min_side = min((min(i['height'], i['width']) for i in images), default=0)

    repeated = _repeated(c['id'] for c in categories) + _repeated(report.classes)
    report.add('duplicate_categories', repeated, 'e.g. ')
    report.add('duplicate_image_ids', _repeated(i['id'] for i in images), 'e.g. ')
    report.add('duplicate_annotation_ids', _repeated(a['id'] for a in annotations), 'e.g. ')

    ids = np.array([a['id'] for a in annotations], dtype=object)
    image_row = _rows(images, [a['image_id'] for a in annotations])
    label = _rows(categories, [a['category_id'] for a in annotations])
    known_image, known_category = image_row >= 0, label >= 0
    report.add('unknown_images', ids[~known_image], 'annotation ids ')
    unknown = dict.fromkeys(
        a['category_id'] for a, known in zip(annotations, known_category) if not known
    )
    where = f'category ids {", ".join(map(str, list(unknown)[:5]))}; annotation ids '
    report.add('unknown_categories', ids[~known_category], where)
    report.counts = tuple(np.bincount(label[known_category], minlength=len(categories)).tolist())
    annotated = np.unique(image_row[known_image & known_category])
    report.images_with_instances = len(annotated)
    bare = np.setdiff1d(np.arange(len(images)), annotated)
    report.add('images_without_annotations', [report.file_names[i] for i in bare], 'e.g. ')

    kept = _check_boxes(report, annotations, images, ids, image_row)
    if not (kept & known_image & known_category & ~crowd).any():
        report.add('no_annotations', [''])
    report.add('no_iscrowd', [a['id'] for a in annotations if 'iscrowd' not in a], 'ids ')
    if masks:
        _check_masks(report, annotations, images, image_row)
    if report.file_names:
        _check_files(report, img_dir, split)
        if report.img_dir is not None:
            _check_some_images(report, images)
    return report


def _read(path: Path, report: CocoReport) -> Optional[dict]:
    try:
        with path.open(encoding='utf-8') as file:
            data = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, 'strerror', None) or error
        report.add('unreadable', [f'{type(error).__name__}: {reason}'])
        return None
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            report.add('not_coco', [f'no list {key!r}'])
            return None
    for key in ('images', 'categories'):
        if not data[key]:
            report.add('not_coco', [f'{key!r} is empty'])
            return None
    return data


def _split_sound(entries: list, is_sound) -> 'tuple[list[dict], list[int]]':
    """Split ``entries`` into the sound ones and the indices of the others."""
    bad = [i for i, entry in enumerate(entries) if not is_sound(entry)]
    return [e for e in entries if is_sound(e)] if bad else entries, bad


def _is_number(value: Any) -> bool:
    # NaN, which Python's JSON reader lets pass, compares unequal to itself.
    return isinstance(value, (int, float)) and value == value and abs(value) != float('inf')


def _is_sound_image(image: Any) -> bool:
    return (
        isinstance(image, dict)
        and isinstance(image.get('id'), (int, str))
        and isinstance(image.get('file_name'), str)
        and all(_is_number(image.get(side)) and image[side] > 0 for side in ('height', 'width'))
    )


def _is_sound_annotation(annotation: Any) -> bool:
    if not isinstance(annotation, dict):
        return False
    box = annotation.get('bbox')
    return (
        all(isinstance(annotation.get(k), (int, str)) for k in ('id', 'image_id', 'category_id'))
        and isinstance(box, list)
        and len(box) == 4
        and all(map(_is_number, box))
        and _is_number(annotation.get('area'))
    )


def _is_sound_category(category: Any) -> bool:
    return (
        isinstance(category, dict)
        and isinstance(category.get('id'), (int, str))
        and isinstance(category.get('name'), str)
    )


def _repeated(values: Iterable) -> list:
    return [value for value, count in Counter(values).items() if count > 1]


def _rows(entries: 'list[dict]', ids: list) -> np.ndarray:
    """Return the index in ``entries`` of each of ``ids``, -1 where there is none: ``(N,)``."""
    row = {entry['id']: i for i, entry in enumerate(entries)}
    return np.array([row.get(id_, -1) for id_ in ids], dtype=np.int64)


def _check_boxes(
    report: CocoReport,
    annotations: 'list[dict]',
    images: 'list[dict]',
    ids: np.ndarray,
    image_row: np.ndarray,
) -> np.ndarray:
    """Report bad boxes; return which of the N annotations MMDetection keeps, ``(N,)`` bool."""
    boxes = np.array([a['bbox'] for a in annotations], dtype=np.float64).reshape(-1, 4)
    area = np.array([a['area'] for a in annotations], dtype=np.float64)
    sizes = np.array([(i['width'], i['height']) for i in images], dtype=np.float64).reshape(-1, 2)
    # Boxes of unknown images have no edge to be outside of.
    limit = np.full((len(boxes), 2), np.inf)
    known = image_row >= 0
    limit[known] = sizes[image_row[known]]

    low, wh = boxes[:, :2], boxes[:, 2:]
    high = low + wh
    empty = (wh <= 0).any(1)
    tiny = ~empty & ((wh < 1).any(1) | (area <= 0))
    outside = ~empty & ((high <= 0) | (low >= limit)).any(1)
    over = ~empty & ~outside & ((low < -1) | (high > limit + 1)).any(1)
    for kind, found in [
        ('empty_boxes', empty),
        ('tiny_boxes', tiny),
        ('outside_boxes', outside),
        ('partly_outside_boxes', over),
    ]:
        report.add(kind, ids[found], 'annotation ids ')
    return ~(empty | tiny | outside)


def _check_masks(
    report: CocoReport, annotations: 'list[dict]', images: 'list[dict]', image_row: np.ndarray
) -> None:
    none, bad, other_size = [], [], []
    for annotation, row in zip(annotations, image_row):
        mask = annotation.get('segmentation')
        if isinstance(mask, dict) and mask.get('counts') and mask.get('size'):
            report.rle_masks += not annotation.get('iscrowd')
            if row >= 0 and mask['size'] != [images[row]['height'], images[row]['width']]:
                other_size.append(annotation['id'])
        elif not mask or not isinstance(mask, list) or not all(isinstance(p, list) for p in mask):
            none.append(annotation['id'])
        elif any(len(polygon) < 6 or len(polygon) % 2 for polygon in mask):
            bad.append(annotation['id'])
    report.add('no_masks', none, 'annotation ids ')
    report.add('bad_masks', bad, 'annotation ids ')
    report.add('mask_sizes', other_size, 'annotation ids ')


def _check_files(report: CocoReport, img_dir: Optional[StrPath], split: str) -> None:
    """Find the folder of the images and the files missing in it."""
    folders = [str(img_dir)] if img_dir is not None else _likely_folders(Path(report.path), split)
    missing: Sequence[str] = report.file_names
    for folder in folders:
        missing_here = _missing_files(folder, report.file_names)
        if len(missing_here) < len(missing):
            report.img_dir, missing = folder, missing_here
        if not missing:
            return
    if img_dir is None and report.img_dir is None:
        report.add('no_img_dir', [', '.join(folders)])
        return
    report.img_dir = report.img_dir or str(img_dir)
    report.add('missing_images', missing, f'in {report.img_dir}: ')


def _check_some_images(report: CocoReport, images: 'list[dict]') -> None:
    """Compare files with the sizes in the annotation file; only headers are read."""
    bad, odd = [], []
    for image in images[:: max(1, len(images) // _OPENED_IMAGES)]:
        name = image['file_name']
        path = os.path.join(report.img_dir, name)
        if not os.path.exists(path):
            continue  # reported already
        try:
            width, height = read_image_size(path)
        except Exception:  # each format has errors of its own
            bad.append(name)
            continue
        if (width, height) != (image['width'], image['height']):
            odd.append(f'{name} is {width}x{height}')
    report.add('bad_images', bad, f'of a sample, in {report.img_dir}: ')
    report.add('image_sizes', odd, 'of a sample: ')


def read_image_size(path: StrPath) -> 'tuple[int, int]':
    """Return (width, height) of an image file as MMDetection reads it, from its header."""
    with Image.open(path) as file:
        width, height = file.size
        turned = file.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    return (height, width) if turned else (width, height)


def _likely_folders(json_path: Path, split: str) -> 'list[str]':
    here = json_path.parent
    # 'instances_train2017.json' -> 'train2017'
    stem = json_path.stem.rpartition('_')[2]
    of_split = [stem, split, f'{split}2017', f'images/{stem}', f'images/{split}']
    names = [*of_split, 'images', 'JPEGImages', 'img', '']
    # The file mostly lies in an 'annotations' folder next to the images; '' comes last, as the
    # folder of the other split may hold files of the same names.
    near = [here / name for name in names]
    around = [Path(os.path.normpath(here / '..' / name)) for name in names]
    return [str(folder) for folder in dict.fromkeys([*around[:-1], *near, around[-1]])]


def _missing_files(folder: str, file_names: Iterable[str]) -> 'list[str]':
    # One listing per folder: a stat per image takes minutes on network file systems.
    listings: dict[str, set[str]] = {}
    missing = []
    for file_name in file_names:
        subfolder, name = os.path.split(file_name)
        if subfolder not in listings:
            listings[subfolder] = _names_in(os.path.join(folder, subfolder))
        if name not in listings[subfolder]:
            missing.append(file_name)
    return missing


def _names_in(folder: str) -> 'set[str]':
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()
