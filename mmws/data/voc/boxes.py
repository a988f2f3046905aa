"""Read the boxes of ``Annotations/<name>.xml``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from .layout import VOC_CLASSES, annotation_folder, has_masks
from .objects import MISSING, BrokenFileError, Contents, VocObject, require_size


class BoxReader:
    """Objects of ``Annotations/<name>.xml``."""

    def __init__(self, folder: Path, classes: tuple[str, ...]) -> None:
        self.folder = folder
        self.labels = {name: label for label, name in enumerate(classes)}

    def __call__(
        self, name: str, size: tuple[int, int], note: Callable[[str, str], None]
    ) -> Contents:
        return Contents(self.objects(self.folder / f'{name}.xml', size, note))

    def objects(
        self, path: Path, size: tuple[int, int], note: Callable[[str, str], None]
    ) -> list[VocObject]:
        root = self._parse(path)
        declared = root.find('size')
        if declared is not None and read_number(declared, 'width'):  # 0: the writer did not know
            require_size(
                path, (read_number(declared, 'width'), read_number(declared, 'height')), size
            )
        found = []
        for index, item in enumerate(root.findall('object'), start=1):
            name = (item.findtext('name') or '').strip()
            if name not in self.labels:
                raise BrokenFileError(
                    path,
                    f'unknown class {name!r}',
                    f'{self._meant(name)}name it in `classes`, or correct the file',
                )
            box = item.find('bndbox')
            corners = [read_number(box, side) for side in ('xmin', 'ymin', 'xmax', 'ymax')]
            left, top, right, bottom = (math.nan if side is None else side for side in corners)
            if not (left <= right and top <= bottom):  # a comparison with NaN is false
                note('objects without a sound box, which are left out', f'{path} object {index}')
                continue
            # VOC counts pixels from 1 and includes the last one.
            x, y = left - 1, top - 1
            width, height = right - x, bottom - y
            difficult = bool(read_number(item, 'difficult'))
            found.append(
                VocObject(self.labels[name], (x, y, width, height), difficult, width * height)
            )
        return found

    def _meant(self, name: str) -> str:
        alike = difflib.get_close_matches(name.lower(), [known.lower() for known in self.labels])
        meant = next((known for known in self.labels if [known.lower()] == alike[:1]), None)
        return f'did you mean {meant!r}? ' if meant else ''

    @staticmethod
    def _parse(path: Path) -> ElementTree.Element:
        try:
            return ElementTree.parse(path).getroot()
        except FileNotFoundError:
            raise BrokenFileError(path, 'missing', MISSING) from None
        except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # or encoding
            what = f'cannot be read as XML ({error})'
            raise BrokenFileError(path, what, 'get the file again') from None


def read_number(node: ElementTree.Element | None, tag: str) -> float | None:
    """Return the finite number in a child of an XML element, ``None`` where there is none."""
    try:
        number = float((node.findtext(tag) if node is not None else None) or '')
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def find_classes(root: Path) -> tuple[str, ...]:
    """Return the classes of a tree: the 20 of VOC, unless its XML files name others alone.

    With masks the labels of the files count, whose order only the user knows; then they are VOC's.
    """
    names: set[str] = set()
    if not has_masks(root):
        for path in sorted(annotation_folder(root).glob('*.xml')):
            try:
                items = ElementTree.parse(path).getroot().findall('object')
            except (OSError, ElementTree.ParseError, ValueError, LookupError):
                continue  # which is reported when the file is converted
            names |= {(item.findtext('name') or '').strip() for item in items}
    names -= {''}
    return tuple(VOC_CLASSES if names <= {*VOC_CLASSES} else sorted(names))
