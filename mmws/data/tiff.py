"""Read from the header of a TIFF how its samples are laid out.

The tags are those of TIFF 6.0 (https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf); a
BigTIFF has the same with 64-bit offsets.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO, NamedTuple

import numpy as np

MARKS = (b'II*\x00', b'MM\x00*', b'II+\x00', b'MM\x00+')
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2  # values of the tag of photometric interpretation
SEPARATE = 2  # value of the tag of planar configuration: a plane for each sample
UNASSOCIATED = 2  # value of the tag of extra samples: transparency that has not been multiplied in

_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, ORIENTATION = 256, 257, 258, 262, 274
_SAMPLES, _PLANES, _REDUCED, _EXTRA = 277, 284, 254, 338
_CODES = {1: 'B', 3: 'H', 4: 'I', 16: 'Q'}  # types of whole numbers, as `struct` calls them
_MOST_PAGES = 10_000


class Page(NamedTuple):
    """How one page of a TIFF is laid out.

    Attributes:
        size: Width and height as stored, in pixels.
        bits: Bits of a sample.
        photometric: What the samples mean, such as :data:`RGB`.
        samples: Samples of a pixel.
        planes: How samples follow each other, such as :data:`SEPARATE`.
        extra: What the samples behind the colours are, such as :data:`UNASSOCIATED`.
        orientation: 1 to 8, as in EXIF.
        reduced: Whether the page is a smaller copy of another.
    """

    size: tuple[int, int]
    bits: int
    photometric: int
    samples: int
    planes: int
    extra: tuple[int, ...]
    orientation: int
    reduced: bool

    @property
    def turned_size(self) -> tuple[int, int]:
        """Width and height after the orientation has turned the page, as OpenCV reads it."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def read_pages(file: bytes | BinaryIO, most: int = _MOST_PAGES) -> list[Page]:
    """Return the layout of the pages of a TIFF.

    Args:
        file: Bytes of the file, or the file.
        most: Number of pages after which to stop.

    Raises:
        ValueError: if it is no TIFF, or its header is damaged.
    """
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    head = stream.read(16)
    if head[:4] not in MARKS:
        raise ValueError('it is no TIFF')
    order, big = '<' if head[:1] == b'I' else '>', b'+' in head[2:4]
    try:
        at = struct.unpack_from(order + ('Q' if big else 'I'), head, 8 if big else 4)[0]
        pages: list[Page] = []
        seen: set[int] = set()
        while at and at not in seen and len(pages) < most:
            seen.add(at)
            page, at = _page(stream, at, order, big)
            pages.append(page)
    except (struct.error, OverflowError, IndexError, OSError) as error:
        raise ValueError(f'its header is damaged ({error})') from None
    return pages


def _page(stream: BinaryIO, at: int, order: str, big: bool) -> tuple[Page, int]:
    """Return a page and the place of the next, 0 after the last."""
    count_code, code, entry_size = ('Q', 'Q', 20) if big else ('H', 'I', 12)
    stream.seek(at)
    (count,) = struct.unpack(order + count_code, stream.read(struct.calcsize(count_code)))
    if count > 4096:
        raise struct.error(f'{count} tags')
    block = stream.read(count * entry_size + struct.calcsize(code))
    tags: dict[int, tuple[int, ...]] = {}
    for start in range(0, count * entry_size, entry_size):
        tag, kind, number = struct.unpack_from(f'{order}HH{code}', block, start)
        if tag not in _DEFAULTS or kind not in _CODES or not 0 < number <= 4096:
            continue
        form = f'{order}{number}{_CODES[kind]}'
        place = start + 4 + struct.calcsize(code)
        if struct.calcsize(form) <= struct.calcsize(code):
            tags[tag] = struct.unpack_from(form, block, place)
        else:
            stream.seek(struct.unpack_from(order + code, block, place)[0])
            tags[tag] = struct.unpack(form, stream.read(struct.calcsize(form)))
    values = {**_DEFAULTS, **tags}
    orientation = values[ORIENTATION][0]
    page = Page(
        size=(values[_WIDTH][0], values[_HEIGHT][0]),
        bits=values[_BITS][0],
        photometric=values[_PHOTOMETRIC][0],
        samples=values[_SAMPLES][0],
        planes=values[_PLANES][0],
        extra=values[_EXTRA],
        orientation=orientation if 1 <= orientation <= 8 else 1,
        reduced=bool(values[_REDUCED][0] & 1),
    )
    if not all(page.size):
        raise struct.error('it has no size')
    return page, struct.unpack_from(order + code, block, count * entry_size)[0]


_DEFAULTS: dict[int, tuple[int, ...]] = {
    _WIDTH: (0,),
    _HEIGHT: (0,),
    _BITS: (1,),
    _PHOTOMETRIC: (BLACK_IS_ZERO,),
    ORIENTATION: (1,),
    _SAMPLES: (1,),
    _PLANES: (1,),
    _REDUCED: (0,),
    _EXTRA: (),
}


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image, (H, W, ...), turned by an orientation of 1 to 8, as OpenCV turns it."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
