"""Decode images with what training decodes them with, and compare them with what is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from ..raw_images import decode_raw, is_tiff
from .report import CocoReport

SAMPLE = 200  # images, spread over the file; decoding all of COCO takes minutes

_ORIENTATION = 274  # EXIF tag; 2 to 8 turn or mirror the image when it is read, 5 to 8 by a quarter


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
        with Image.open(path) as image:
            orientation = int(image.getexif().get(_ORIENTATION, 1) or 1)
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if content[:2] == b'\xff\xd8' or content[:4] == b'\x89PNG':
            return ImageState(error=f'the file is damaged ({_first_line(error)})')
    depth = 8 * unchanged.dtype.itemsize
    return ImageState(
        size=(pixels.shape[1], pixels.shape[0]),
        orientation=orientation if 1 <= orientation <= 8 else 1,
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
        channels = decode_raw(content).shape[2]
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
        with Image.open(path) as file:
            width, height = file.size
            turned = file.getexif().get(_ORIENTATION, 1) >= 5
    except OSError as error:
        if str(path) in str(error):
            raise
        raise OSError(f'image {path} cannot be read: {error}') from error
    return (height, width) if turned else (width, height)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
