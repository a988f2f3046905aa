"""Convert PASCAL VOC and SBD trees to COCO instances files.

A VOC tree has the layout of http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html,
SBD that of http://home.bharathh.info/pubs/codes/SBD/download.html (``dataset/`` of its archive).
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils
from tqdm import tqdm

from mmws.files import replacing

from .coco_check import read_image_size
from .errors import DataError
from .rle import encode_masks

StrPath = Union[str, Path]

VOC_CLASSES = (
    'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow',
    'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train',
    'tvmonitor',
)  # fmt: skip
VOID = 255  # VOC's label for pixels that belong to no class and are not scored

_DESCRIPTION = 'Converted from VOC layout by mmws'
_IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp')  # the first one found of an image's name
_SECOND_COLUMN = re.compile(r'\s+(-1|0|1)$')  # of lists of single classes: without, unsure, with it
# The box of an object and that of its mask, which the border makes smaller, overlap by this IoU at
# least; the smaller the object, the more the border takes away.
_SAME_OBJECT = 0.25


@dataclass
class VocReport:
    """What one split of a VOC tree holds.

    Attributes:
        split: Name of the split.
        path: The COCO file written for it.
        img_dir: Folder of its images.
        classes: Class names.
        counts: Instances of each class, ``difficult`` ones excluded, in the order of ``classes``.
        difficult: ``difficult`` instances of each class.
        images: Number of images.
        empty_images: Names of images without an instance.
        border_pixels: Pixels of label 255.
        pixels: Pixels of all label images; 0 where only boxes were read.
        warnings: What was left out or looks odd, one line each.
    """

    split: str
    path: str
    img_dir: str
    classes: 'tuple[str, ...]'
    counts: 'list[int]'
    difficult: 'list[int]'
    images: int = 0
    empty_images: 'list[str]' = field(default_factory=list)
    border_pixels: int = 0
    pixels: int = 0
    warnings: 'list[str]' = field(default_factory=list)

    def text(self) -> str:
        """Return the report as lines for the terminal."""
        border = (
            f', border {self.border_pixels:,} pixels ({self.border_pixels / self.pixels:.1%})'
            if self.pixels
            else ', boxes only'
        )
        lines = [
            f'{self.split}: {self.images} images ({len(self.empty_images)} empty), '
            f'{sum(self.counts)} instances and {sum(self.difficult)} difficult ones{border}',
            f'{"instances":>11} {"difficult":>9}  class',
            *(
                f'{count:>11} {difficult:>9}  {name}'
                for count, difficult, name in zip(self.counts, self.difficult, self.classes)
            ),
            *(f'warning: {warning}' for warning in self.warnings),
            f'wrote {self.path}; images in {self.img_dir}',
        ]
        return '\n'.join(lines)


class _Object(NamedTuple):
    """One object of one image; lengths in pixels from 0, as COCO counts."""

    label: int
    box: 'tuple[float, float, float, float]'  # x, y, width, height
    difficult: bool = False
    area: float = 0.0
    rle: Optional[dict] = None


class _Contents(NamedTuple):
    """What the files of one image hold, apart from the image itself."""

    objects: 'list[_Object]'
    border_pixels: int = 0
    pixels: int = 0


class _BrokenError(Exception):
    """A file of an image cannot be used; the message is ``<file>: <what>: <remedy>``."""


def convert_voc(
    root: StrPath,
    splits: Sequence[str] = ('train', 'val'),
    classes: Optional[Sequence[str]] = None,
    boxes: Optional[bool] = None,
    out_dir: Optional[StrPath] = None,
) -> 'list[VocReport]':
    """Check a VOC or SBD tree and write each split as a COCO instances file.

    Masks are those of the label images, exactly, without the border of label 255; an instance's box
    is the tightest around its mask. Boxes of ``Annotations`` are VOC's, which count pixels from 1
    and include the last one: ``[xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]``.

    VOC scores ``difficult`` objects neither as hits nor as misses. They become ``"iscrowd": 1``,
    which COCO evaluation ignores likewise and training does not learn from, and ``"difficult": 1``,
    by which :class:`mmws.VOCMetric` applies VOC's own rule. One belongs to the mask of its class
    whose box overlaps its own most; where VOC has painted it over with the border's label, its mask
    is that label within its box.

    One image is in memory at a time.

    Args:
        root: The folder that holds ``JPEGImages`` (VOC), or ``img`` and ``inst`` (SBD).
        splits: Names of lists: ``ImageSets/Segmentation/<split>.txt``,
            ``ImageSets/Main/<split>.txt`` for boxes, or SBD's ``<split>.txt``.
        classes: Class names; ``classes[i]`` is label ``i + 1`` of ``SegmentationClass``. ``None``:
            the 20 of VOC.
        boxes: Read the boxes of ``Annotations`` and no masks. ``None``: where there are no masks.
        out_dir: Folder for ``instances_<split>.json``, or ``boxes_<split>.json`` without masks;
            ``<root>/annotations`` if ``None``.

    Returns:
        One report for each split.

    Raises:
        DataError: naming every broken file of the tree in a line of its own. Nothing is written.
        FileExistsError: if an output exists that this function did not write.
        FileNotFoundError: if ``root`` is no such tree.
        ImportError: if SBD is read without SciPy.
        ValueError: if ``classes`` are not unique, or ``boxes`` does not suit the tree.
    """
    classes = tuple(VOC_CLASSES if classes is None else classes)
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated or not 0 < len(classes) < VOID:
        raise ValueError(
            f'--classes: {repeated[0]!r} is named twice'
            if repeated
            else f'--classes: 1 to {VOID - 1} names are wanted, got {len(classes)}'
        )
    splits = list(dict.fromkeys(splits))
    if not splits:
        raise ValueError('--splits: name at least one split')
    tree = _open_tree(Path(root), classes, boxes)
    out_dir = Path(root, 'annotations') if out_dir is None else Path(out_dir)
    outputs = [out_dir / f'{tree.kind}_{split}.json' for split in splits]
    for path in outputs:
        _require_replaceable(path)

    problems: list[str] = []
    converted = [
        _convert_split(tree, split, str(path), problems) for split, path in zip(splits, outputs)
    ]
    if problems:
        raise DataError(dict.fromkeys(problems))
    _write_all({report.path: data for report, data in converted})
    return [report for report, _ in converted]


def has_masks(root: StrPath) -> bool:
    """Return whether a VOC or SBD tree has instance masks."""
    return any(Path(root, folder).is_dir() for folder in ('SegmentationObject', 'inst'))


def conversion_hint(path: StrPath) -> Optional[str]:
    """Return the command that writes an annotation file, if its VOC or SBD tree is there.

    Args:
        path: Perhaps ``<root>/annotations/{instances,boxes}_<split>.json``, the default output of
            :func:`convert_voc`.
    """
    path = Path(path)
    root = path.parent.parent
    kind, _, split = path.stem.partition('_')
    is_output = path.parent.name == 'annotations' and path.suffix == '.json'
    if not (is_output and split and kind in ('instances', 'boxes')):
        return None
    if not any((root / folder).is_dir() for folder in ('JPEGImages', 'inst')):
        return None
    boxes = ' --boxes' if kind == 'boxes' else ''
    command = 'python tools/dataset_converters/voc_instances.py'
    return f'{command} {os.path.relpath(root)} --splits {split}{boxes}'


def read_class_names(names: Optional[Sequence[str]]) -> 'Optional[tuple[str, ...]]':
    """Return class names from the command line: as given, or from the one file given.

    Args:
        names: Names, or the path of a text file with one name a line. ``None`` stays ``None``.

    Raises:
        ValueError: if the file holds no text.
    """
    if names is None:
        return None
    if len(names) == 1 and os.path.isfile(names[0]):
        try:
            lines = Path(names[0]).read_text(encoding='utf-8-sig').splitlines()
        except UnicodeError:
            raise ValueError(f'--classes {names[0]}: give a text file, one name a line') from None
        names = [line.strip() for line in lines if line.strip()]
    return tuple(names)


def voc_palette() -> np.ndarray:
    """Return the colour map of PASCAL VOC's label images, uint8 of shape (256, 3), RGB."""
    index = np.arange(256)
    palette = np.zeros((256, 3), int)
    # Bits 0, 1 and 2 of an index become the high bits of red, green and blue, and so on upwards.
    for bit in range(8):
        palette |= ((index[:, None] >> (3 * bit + np.arange(3))) & 1) << (7 - bit)
    return palette.astype(np.uint8)


# ------------------------------------------------------------------------------------- the trees


@dataclass
class _Tree:
    """Where a tree keeps its files, and how those of one image are read.

    Attributes:
        kind: ``'instances'`` or ``'boxes'``, which the names of the outputs begin with.
        images: Folder of the images.
        lists: Folder of the lists of splits.
        classes: Class names.
        read: Takes the name of an image, its (width, height) and a function that notes an oddity.
    """

    kind: str
    images: Path
    lists: Path
    classes: 'tuple[str, ...]'
    read: 'Callable[[str, tuple[int, int], Callable[[str, str], None]], _Contents]'


def _open_tree(root: Path, classes: 'tuple[str, ...]', boxes: Optional[bool]) -> _Tree:
    if _is_sbd(root):
        if boxes:
            raise ValueError(f'--boxes: {root} is SBD, which has masks only')
        return _Tree('instances', root / 'img', root, classes, _SbdReader(root, classes))
    if not _is_voc(root):
        inner = [p for p in _folders_in(root) if _is_voc(p) or _is_sbd(p)]
        raise FileNotFoundError(
            f'{root} has neither JPEGImages (VOC) nor img and inst (SBD)'
            + (f': did you mean {inner[0]}?' if inner else '')
        )
    if boxes is None:
        boxes = not has_masks(root)
    if boxes:
        reader = _BoxReader(root, classes)
        return _Tree('boxes', root / 'JPEGImages', root / 'ImageSets' / 'Main', classes, reader)
    if not has_masks(root):
        raise FileNotFoundError(
            f'{root} has no SegmentationObject, which masks are read from: for boxes alone take '
            '--boxes, or a --base without a mask head'
        )
    lists = root / 'ImageSets' / 'Segmentation'
    return _Tree('instances', root / 'JPEGImages', lists, classes, _MaskReader(root, classes))


def _is_voc(root: Path) -> bool:
    return (root / 'JPEGImages').is_dir()


def _is_sbd(root: Path) -> bool:
    return (root / 'inst').is_dir() and (root / 'img').is_dir()


def _folders_in(root: Path) -> 'list[Path]':
    return [path for pattern in ('*', '*/*') for path in sorted(root.glob(pattern))]


class _BoxReader:
    """Objects of ``Annotations/<name>.xml``."""

    def __init__(self, root: Path, classes: 'tuple[str, ...]') -> None:
        self.folder = root / 'Annotations'
        self.labels = {name: label for label, name in enumerate(classes)}

    def __call__(
        self, name: str, size: 'tuple[int, int]', note: 'Callable[[str, str], None]'
    ) -> _Contents:
        return _Contents(self.objects(self.folder / f'{name}.xml', size, note))

    def objects(
        self, path: Path, size: 'tuple[int, int]', note: 'Callable[[str, str], None]'
    ) -> 'list[_Object]':
        root = self._parse(path)
        declared = root.find('size')
        if declared is not None:
            _require_size(path, (_number(declared, 'width'), _number(declared, 'height')), size)
        found = []
        for index, item in enumerate(root.findall('object'), start=1):
            name = (item.findtext('name') or '').strip()
            if name not in self.labels:
                raise _BrokenError(
                    f'{path}: unknown class {name!r}: name it in --classes, or correct the file'
                )
            box = item.find('bndbox')
            corners = [_number(box, side) for side in ('xmin', 'ymin', 'xmax', 'ymax')]
            if None in corners or corners[2] < corners[0] or corners[3] < corners[1]:
                note('objects without a sound box, which are left out', f'{path} object {index}')
                continue
            x, y = corners[0] - 1, corners[1] - 1  # VOC counts from 1
            width, height = corners[2] - x, corners[3] - y  # and includes the last pixel
            difficult = bool(_number(item, 'difficult'))
            box = (x, y, width, height)
            found.append(_Object(self.labels[name], box, difficult, width * height))
        return found

    @staticmethod
    def _parse(path: Path) -> ElementTree.Element:
        try:
            return ElementTree.parse(path).getroot()
        except FileNotFoundError:
            raise _BrokenError(
                f'{path}: missing: put it there, or take the image off the list'
            ) from None
        except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # or encoding
            raise _BrokenError(
                f'{path}: cannot be read as XML ({error}): get the file again'
            ) from None


class _MaskReader:
    """Instances of ``SegmentationObject``, their classes of ``SegmentationClass``."""

    def __init__(self, root: Path, classes: 'tuple[str, ...]') -> None:
        self.root = root
        self.classes = classes
        self.boxes = _BoxReader(root, classes)

    def __call__(
        self, name: str, size: 'tuple[int, int]', note: 'Callable[[str, str], None]'
    ) -> _Contents:
        path = self.root / 'SegmentationObject' / f'{name}.png'
        class_path = self.root / 'SegmentationClass' / f'{name}.png'
        instance_map = _read_labels(path, size)
        classes_of = _class_histogram(instance_map, _read_labels(class_path, size))
        ids = [int(i) for i in np.flatnonzero(classes_of.any(1)) if i not in (0, VOID)]
        labels = [self._label(class_path, i, classes_of[i]) for i in ids]
        for i in ids:
            if np.count_nonzero(classes_of[i, 1:VOID]) > 1:
                note('instances of several classes, of which the largest is taken', f'{path} {i}')
        objects = _objects_of_labels(instance_map, ids, labels)

        annotation = self.boxes.folder / f'{name}.xml'
        if annotation.exists():  # without it no object is difficult
            drawn = self.boxes.objects(annotation, size, note)
            objects = _mark_difficult(objects, drawn, instance_map == VOID, annotation, note)
        border = int(np.count_nonzero(instance_map == VOID))
        return _Contents(objects, border, instance_map.size)

    def _label(self, path: Path, index: int, histogram: np.ndarray) -> int:
        """Return the most frequent class of an instance, from its pixels per class, ``(256,)``."""
        label = int(histogram[1:VOID].argmax())
        if not histogram[1:VOID].any():
            raise _BrokenError(
                f'{path}: no class where SegmentationObject has instance {index}: '
                'correct one of the two'
            )
        if label >= len(self.classes):
            raise _BrokenError(
                f'{path}: unknown class {label + 1} of {len(self.classes)}: name all classes with '
                '--classes, in the order of their labels'
            )
        return label


class _SbdReader:
    """Instances of ``inst/<name>.mat``: ``GTinst.Segmentation`` and ``GTinst.Categories``."""

    def __init__(self, root: Path, classes: 'tuple[str, ...]') -> None:
        try:
            from scipy.io import loadmat
        except ImportError:
            raise ImportError('reading SBD needs SciPy: run `pip install "mmws[voc]"`') from None
        self.loadmat = loadmat
        self.root = root
        self.classes = classes

    def __call__(
        self, name: str, size: 'tuple[int, int]', note: 'Callable[[str, str], None]'
    ) -> _Contents:
        path = self.root / 'inst' / f'{name}.mat'
        if not path.exists():
            raise _BrokenError(f'{path}: missing: put it there, or take the image off the list')
        try:
            instances = self.loadmat(path, variable_names=['GTinst'])['GTinst'][0, 0]
            instance_map = np.asarray(instances['Segmentation'])
            categories = np.asarray(instances['Categories'], int).ravel()
        except Exception as error:  # a truncated file fails in many ways
            raise _BrokenError(
                f'{path}: no GTinst can be read ({type(error).__name__}): get the file again'
            ) from None
        _require_size(path, instance_map.shape[::-1], size)
        ids = [int(i) for i in np.unique(instance_map) if i]
        if ids and max(ids) > len(categories):
            raise _BrokenError(f'{path}: no category of instance {max(ids)}: get the file again')
        labels = [int(categories[i - 1]) - 1 for i in ids]
        unknown = [label + 1 for label in labels if not 0 <= label < len(self.classes)]
        if unknown:
            raise _BrokenError(
                f'{path}: unknown class {unknown[0]} of {len(self.classes)}: name all classes with '
                '--classes, in the order of their labels'
            )
        return _Contents(_objects_of_labels(instance_map, ids, labels), pixels=instance_map.size)


def _number(node: Optional[ElementTree.Element], tag: str) -> Optional[float]:
    """Return the finite number in a child of an XML element, ``None`` where there is none."""
    try:
        number = float(node.findtext(tag))
    except (AttributeError, TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _require_size(path: Path, size: 'tuple[Any, Any]', expected: 'tuple[int, int]') -> None:
    if size != expected:
        sizes = [
            'x'.join(f'{s:g}' if s is not None else '?' for s in wh) for wh in (size, expected)
        ]
        raise _BrokenError(
            f'{path}: size {sizes[0]}, while the image has {sizes[1]}: one of the two belongs to '
            'another image'
        )


def _read_labels(path: Path, size: 'tuple[int, int]') -> np.ndarray:
    """Read a label image, ``(H, W)`` uint8."""
    try:
        with Image.open(path) as image:
            mode, labels = image.mode, np.array(image)
    except FileNotFoundError:
        raise _BrokenError(
            f'{path}: missing: put it there, or take the image off the list'
        ) from None
    except Exception as error:  # Pillow's errors are of many kinds
        raise _BrokenError(f'{path}: cannot be read ({error}): get the file again') from None
    if mode not in ('P', 'L'):
        raise _BrokenError(
            f'{path}: colours ({mode}) instead of labels: save it as a palette or grey image whose '
            'values are the labels'
        )
    _require_size(path, labels.shape[::-1], size)
    return labels


def _class_histogram(instance_map: np.ndarray, class_map: np.ndarray) -> np.ndarray:
    """Count the pixels of each pair of instance and class: ``(256, 256)``."""
    pairs = instance_map.astype(np.int64) * 256 + class_map
    return np.bincount(pairs.ravel(), minlength=256 * 256).reshape(256, 256)


def _objects_of_labels(
    instance_map: np.ndarray, ids: 'list[int]', labels: 'list[int]'
) -> 'list[_Object]':
    """Return the instances ``ids`` of a label map of shape (H, W), with exact masks."""
    rles = encode_masks(instance_map[..., None] == np.array(ids, instance_map.dtype))
    return [
        _Object(label, tuple(mask_utils.toBbox(rle)), False, float(mask_utils.area(rle)), rle)
        for label, rle in zip(labels, rles)
    ]


def _mark_difficult(
    objects: 'list[_Object]',
    drawn: 'list[_Object]',
    void: np.ndarray,
    path: Path,
    note: 'Callable[[str, str], None]',
) -> 'list[_Object]':
    """Transfer ``difficult`` from the N boxes ``drawn`` to the M masks ``objects``.

    Returns:
        The M objects, followed by those difficult ones that are within ``void``, (H, W) bool.
    """
    pairs = _same_objects([o[:2] for o in objects], [o[:2] for o in drawn])
    marked = [
        item._replace(difficult=i in pairs and drawn[pairs[i]].difficult)
        for i, item in enumerate(objects)
    ]
    if len(pairs) < len(objects):
        note('masks of no object in Annotations', f'{path}')
    for index, item in enumerate(drawn):
        if index in pairs.values():
            continue
        if not item.difficult:
            note('objects without a mask, which are left out', f'{path} object {index + 1}')
            continue
        hidden = _within(void, item.box)
        if hidden.any():
            rle = encode_masks(hidden[..., None])[0]
            area = float(mask_utils.area(rle))
            marked.append(item._replace(box=tuple(mask_utils.toBbox(rle)), area=area, rle=rle))
    return marked


def _same_objects(one: 'list[tuple]', other: 'list[tuple]') -> 'dict[int, int]':
    """Pair (label, box) of two lists, the best overlap first; return indices one -> other."""
    if not one or not other:
        return {}
    boxes = [np.array([box for _, box in side], np.float64) for side in (one, other)]
    overlap = mask_utils.iou(*boxes, [0] * len(other))
    overlap[np.array([label for label, _ in one])[:, None] != [label for label, _ in other]] = 0
    pairs: dict[int, int] = {}
    while overlap.max() >= _SAME_OBJECT:
        i, j = np.unravel_index(overlap.argmax(), overlap.shape)
        pairs[int(i)] = int(j)
        overlap[i], overlap[:, j] = 0, 0
    return pairs


def _within(mask: np.ndarray, box: 'tuple[float, ...]') -> np.ndarray:
    """Return ``mask``, (H, W) bool, without what is outside of ``box``."""
    x, y, width, height = (round(value) for value in box)
    inside = np.zeros_like(mask)
    window = np.s_[max(y, 0) : y + height, max(x, 0) : x + width]
    inside[window] = mask[window]
    return inside


# ------------------------------------------------------------------------------------- splits


def _convert_split(
    tree: _Tree, split: str, path: str, problems: 'list[str]'
) -> 'tuple[VocReport, dict]':
    """Return the report on a split and the content of its COCO file; extend ``problems``."""
    zeros = [0] * len(tree.classes)
    report = VocReport(split, path, str(tree.images), tree.classes, zeros, list(zeros))
    oddities: dict[str, list[str]] = {}
    images, annotations = [], []
    for name, size, file_name, contents in _read_split(tree, split, oddities, problems):
        image_id = len(images) + 1
        images.append({'id': image_id, 'file_name': file_name, 'width': size[0], 'height': size[1]})
        for item in contents.objects:
            (report.difficult if item.difficult else report.counts)[item.label] += 1
            annotations.append(_annotation(len(annotations) + 1, image_id, item))
        report.border_pixels += contents.border_pixels
        report.pixels += contents.pixels
        if not contents.objects:
            report.empty_images.append(name)
    report.images = len(images)
    if report.empty_images:
        oddities['images without an instance'] = report.empty_images
    report.warnings = [
        f'{len(where)} {what}: {", ".join(where[:3])}{", ..." if len(where) > 3 else ""}'
        for what, where in oddities.items()
    ]
    data = {
        'info': {'description': _DESCRIPTION},
        'images': images,
        'annotations': annotations,
        'categories': [{'id': i, 'name': name} for i, name in enumerate(tree.classes, start=1)],
    }
    return report, data


def _annotation(annotation_id: int, image_id: int, item: _Object) -> dict:
    annotation = {
        'id': annotation_id,
        'image_id': image_id,
        'category_id': item.label + 1,
        'bbox': [float(value) for value in item.box],
        'area': item.area,
        'iscrowd': int(item.difficult),
        'difficult': int(item.difficult),
    }
    if item.rle is not None:
        annotation['segmentation'] = item.rle
    return annotation


def _read_split(
    tree: _Tree, split: str, oddities: 'dict[str, list[str]]', problems: 'list[str]'
) -> 'Iterator[tuple[str, tuple[int, int], str, _Contents]]':
    """Yield (name, (width, height), file name, contents) of each sound image of a split."""

    def note(what: str, where: str) -> None:
        oddities.setdefault(what, []).append(where)

    files = _image_files(tree.images)
    names = _names(tree, split, files, problems)
    for name in tqdm(names, desc=split, unit='image', disable=None):
        if name not in files:
            problems.append(
                f'{tree.images / name}.jpg: missing: put it there, or take it off the list'
            )
            continue
        path = tree.images / files[name]
        try:
            size = read_image_size(path)
        except Exception as error:  # each format has errors of its own
            problems.append(f'{path}: cannot be read ({error}): get the file again')
            continue
        try:
            yield name, size, files[name], tree.read(name, size, note)
        except _BrokenError as error:
            problems.append(str(error))


def _names(tree: _Tree, split: str, files: 'Container[str]', problems: 'list[str]') -> 'list[str]':
    path = tree.lists / f'{split}.txt'
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()  # Windows' editors mark UTF-8
    except (OSError, UnicodeError) as error:
        others = sorted(p.stem for p in tree.lists.glob('*.txt'))
        remedy = f'--splits takes {", ".join(others)}' if others else 'write one image name a line'
        reason = getattr(error, 'strerror', None) or error
        problems.append(f'{path}: cannot be read ({reason}): {remedy}')
        return []
    # Lists of single classes have a second column. Names may have spaces, or numbers at their end.
    entries = [line.strip() for line in lines if line.strip()]
    names = list(
        dict.fromkeys(
            entry if entry in files else _SECOND_COLUMN.sub('', entry) for entry in entries
        )
    )
    if not names:
        problems.append(f'{path}: empty split: write one image name a line')
    return names


def _image_files(folder: Path) -> 'dict[str, str]':
    """Return name -> file name of the images in a folder, listed once."""
    files: dict[str, str] = {}
    with os.scandir(folder) as entries:
        found = [os.path.splitext(entry.name) for entry in entries]
    for suffix in _IMAGE_SUFFIXES:
        for stem, end in sorted(found):
            if end.lower() == suffix:
                files.setdefault(stem, stem + end)
    return files


# ------------------------------------------------------------------------------------- outputs


def _require_replaceable(path: Path) -> None:
    """Raise unless ``path`` is absent or was written by this module."""
    if not path.exists():
        return
    with path.open('rb') as file:
        head = file.read(200)
    if _DESCRIPTION.encode() not in head:
        raise FileExistsError(f'{path} exists and is not of this converter: give another --out')


def _write_all(contents: 'dict[str, dict]') -> None:
    """Write JSON files, each complete or not at all, and none before all are on the disk."""
    with ExitStack() as stack:
        for path, data in contents.items():
            draft = stack.enter_context(replacing(Path(path)))
            draft.write_text(json.dumps(data), encoding='utf-8')
