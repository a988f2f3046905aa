"""Decode images with what training decodes them with, and compare them with what is written."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from .. import tiff
from ..raw_images import decode_raw, is_tiff
from .report import CocoReport

SAMPLE = 200  # images, spread over the file; decoding all of COCO takes minutes

_ORIENTATION = 274  # EXIF tag; 2 to 8 turn or mirror the image when it is read, 5 to 8 by a quarter
_PILLOWS_LIMIT = threading.Lock()


class ImageState(NamedTuple):
    """What decoding one image gave.

    Attributes:
        size: Width and height as read; ``(0, 0)`` for an image that cannot be read.
        orientation: EXIF orientation; 1 for an image that reading does not turn.
        depth: Bits of each channel in the file.
        brightest: Largest value, for an image of more than 8 bits.
        error: Why it cannot be read.
        channels: Channels of a TIFF that has more than reading keeps, as samples or as pages.
    """

    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    depth: int = 8
    brightest: int = 0
    error: str = ''
    channels: int = 0


def check_pixels(
    report: CocoReport,
    every: bool = False,
    known: dict[str, ImageState] | None = None,
    raw: bool = False,
) -> dict[str, ImageState]:
    """Decode a sample of the images and report those that training cannot read as written.

    Args:
        report: With ``img_dir``, ``file_names`` and ``sizes``; gets the problems.
        every: Decode all images, with a progress bar.
        known: What was found before; used for files that have not changed since.
        raw: Decode with all bits and channels, as :func:`mmws.data.raw_images.decode_raw` does.

    Returns:
        What was found, by path, size and time of change of the file.
    """
    step = 1 if every else max(1, len(report.file_names) // SAMPLE)
    chosen = list(zip(report.file_names, report.sizes))[::step]
    folder = report.img_dir or ''
    paths = [os.path.join(folder, name) for name, _ in chosen]
    found = _decode_all(paths, known or {}, every, raw)
    bad, odd, turned, deep, rich = [], [], [], [], []
    for (name, size), (_, state) in zip(chosen, found):
        if state is None:
            continue  # missing, which is reported already
        if state.error:
            bad.append(f'{name}: {state.error}')
            continue
        if state.size != tuple(size):
            exif = ' after the EXIF orientation turned it' if state.orientation >= 5 else ''
            odd.append(f'{name} is {state.size[0]}x{state.size[1]}{exif}')
        elif state.orientation > 1 and (state.size[0] == state.size[1] or state.orientation < 5):
            turned.append(f'{name}, orientation {state.orientation}')
        if state.depth > 8:
            deep.append(f'{name}, values to {state.brightest}')
        if state.channels:
            rich.append(f'{name}, {state.channels} channels')
    of = '' if every else 'of a sample, '
    report.add('bad_images', bad, f'{of}in {folder}: ')
    report.add('image_sizes', odd, f'{of}e.g. ' if every else 'of a sample: ')
    report.add('turned_images', turned, 'of a sample: ')
    report.add('deep_images', deep, 'of a sample: ')
    report.add('rich_images', rich, 'of a sample: ')
    return {key: state for key, state in found if state is not None}


def _decode_all(
    paths: Sequence[str], known: dict[str, ImageState], show: bool, raw: bool
) -> list[tuple[str, ImageState | None]]:
    keys = [_key(path, raw) for path in paths]
    read = decode_raw_image if raw else decode_image

    def decode(item: tuple[str, str]) -> ImageState | None:
        path, key = item
        return (known.get(key) or read(path)) if key else None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        states = pool.map(decode, zip(paths, keys))
        bar = tqdm(
            states, 'decode images', len(paths), unit=' images', disable=None if show else True
        )
        return list(zip(keys, bar))


def _key(path: str, raw: bool) -> str:
    """Return what changes whenever the file does; ``''`` for a file that is not there."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return ''
    how = '|raw' if raw else ''
    return f'{os.path.abspath(path)}|{stat.st_size}|{stat.st_mtime_ns}{how}'


def decode_image(path: str | Path) -> ImageState:
    """Decode an image as ``LoadImageFromFile`` of MMDetection does, and look for what that hides.

    OpenCV fills the rest of a truncated JPEG with grey on some versions and fails on others, so
    Pillow, which always fails, decodes it too.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        return ImageState(error=error.strerror or str(error))
    if not content:
        return ImageState(error='the file is empty')
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        unchanged = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        return ImageState(error=f'OpenCV cannot decode it ({error.err})')
    if unchanged is not None and unchanged.dtype.kind == 'f':
        return ImageState(error='its pixels are floating-point numbers')
    if pixels is None or unchanged is None:
        return ImageState(error='OpenCV cannot decode it')
    orientation = 1
    try:
        with _opened(io.BytesIO(content)) as image:
            orientation = _orientation(image)
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if content[:2] == b'\xff\xd8' or content[:4] == b'\x89PNG':
            return ImageState(error=f'the file is damaged ({_first_line(error)})')
    depth = 8 * unchanged.dtype.itemsize
    return ImageState(
        size=(pixels.shape[1], pixels.shape[0]),
        orientation=orientation,
        depth=depth,
        brightest=int(unchanged.max()) if depth > 8 else 0,
        channels=_left_out(content),
    )


def _left_out(content: bytes) -> int:
    """Return the number of channels of a TIFF with more than three, or several pages; 0 for others.

    The fourth channel of other formats is transparency.
    """
    if not is_tiff(content):
        return 0
    try:
        channels = sum(page.samples for page in tiff.read_pages(content) if not page.reduced)
    except ValueError:
        return 0
    return channels if channels not in (1, 3) else 0


def decode_raw_image(path: str | Path) -> ImageState:
    """Decode an image with all of its bits and channels, as ``mmws.LoadRawImage`` does."""
    try:
        pixels = decode_raw(Path(path).read_bytes())
    except OSError as error:
        return ImageState(error=error.strerror or str(error))
    except ValueError as error:
        return ImageState(error=str(error))
    return ImageState(size=(pixels.shape[1], pixels.shape[0]))


def read_image_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) of an image file as MMDetection reads it, from its header.

    Raises:
        OSError: if the file is missing or no image; it names the file.
    """
    try:
        with open(path, 'rb') as content:
            # Pillow knows neither TIFFs of two samples nor of more than four.
            if is_tiff(content.read(4)):
                content.seek(0)
                return tiff.read_pages(content, most=1)[0].turned_size
            content.seek(0)
            with _opened(content) as file:
                width, height = file.size
                turned = _orientation(file) >= 5
    except (OSError, ValueError, IndexError) as error:
        if getattr(error, 'filename', None):  # the file cannot be opened, and is named
            raise
        known = not isinstance(error, UnidentifiedImageError)
        reason = error if known else 'Pillow does not know its format'
        raise OSError(f'image {path} cannot be read: {reason}') from error
    return (height, width) if turned else (width, height)


def _opened(content: BinaryIO) -> Image.Image:
    """Open an image of any size: Pillow refuses above 179 megapixels, OpenCV at 1,074."""
    # The lock keeps a second thread from reading the lifted limit as the one to restore.
    with _PILLOWS_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(content)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation by which OpenCV turns an image, 1 if it turns none."""
    kind = 'JPEG' if image.format == 'MPO' else image.format or ''
    if kind != 'TIFF' and not _opencv_turns(kind):
        return 1
    if kind == 'PNG' and 'exif' not in image.info:
        image.load()  # the chunk may stand behind the pixels
    try:
        if kind == 'TIFF':
            value = getattr(image, 'tag_v2', {}).get(_ORIENTATION, 1)
        else:
            # `getexif` of the image would also read XMP, which OpenCV does not.
            exif = Image.Exif()
            exif.load(image.info.get('exif') or b'')
            value = exif.get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF raises errors of many kinds
        return 1
    # Some writers store a text, which OpenCV does not read.
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@cache
def _opencv_turns(kind: str) -> bool:
    """Return whether this version of OpenCV turns images of a format by their orientation."""
    if kind not in ('JPEG', 'PNG', 'WEBP'):
        return False
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    content = io.BytesIO()
    try:
        Image.new('RGB', (2, 1)).save(content, kind, exif=exif)
        pixels = cv2.imdecode(np.frombuffer(content.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, KeyError, cv2.error):  # a Pillow or an OpenCV without WebP
        return False
    return pixels is not None and pixels.shape[:2] == (2, 1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
