"""Images of any depth and number of channels, from the file to the first convolution.

MMDetection reads 8 bits of blue, green and red. Microscopes, thermal and multispectral cameras
write 10 to 16 bits, and one channel to many: one page of a TIFF holds them as samples, or each
channel has a page of its own. What is read here keeps all of them, as 32-bit floating-point
numbers, which hold every integer of 24 bits exactly.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from . import tiff

_SAMPLE = 200  # images whose values are measured


class RawFormat(NamedTuple):
    """What the images of a data set have in common.

    Attributes:
        channels: Number of channels, C.
        largest: Largest value.
        mean: Mean of each channel, C numbers.
        std: Standard deviation of each channel, C numbers above 0.
    """

    channels: int
    largest: int
    mean: list[float]
    std: list[float]


def is_tiff(content: bytes) -> bool:
    """Return whether a file is a TIFF."""
    return content[:4] in tiff.MARKS


def decode_raw(content: bytes) -> np.ndarray:
    """Decode an image file with all of its bits and channels.

    Args:
        content: Bytes of the file.

    Returns:
        Of shape (H, W, C) and the type of the file. Colours of up to four samples are in OpenCV's
        order, blue first; more samples keep the order of the file. The pages of a TIFF become
        channels, in their order, and are turned by its orientation.

    Raises:
        ValueError: if it cannot be decoded, its pages differ in size, or it is a TIFF that needs
            tifffile, which is not installed.
    """
    if is_tiff(content):
        return _decode_tiff(content)
    image = None
    if content:
        try:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            image = None
    if image is None:
        raise ValueError('OpenCV cannot decode it')
    return _joined([image])


def _decode_tiff(content: bytes) -> np.ndarray:
    try:
        layout = tiff.read_pages(content)
    except ValueError:
        layout = []  # the decoders have better words for what is damaged
    if not all(map(_is_opencvs, layout)):
        return _joined(_by_tifffile(content))
    try:
        _, pages = cv2.imdecodemulti(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pages = ()
    if not pages:
        return _joined(_by_tifffile(content))
    for page, decoded in zip(layout, pages):
        channels = decoded.shape[2] if decoded.ndim == 3 else 1
        if page.photometric in (tiff.BLACK_IS_ZERO, tiff.RGB) and channels != page.samples:
            raise ValueError(f'OpenCV decodes {channels} of its {page.samples} channels')
    return _joined(pages)


def _is_opencvs(page: tiff.Page) -> bool:
    """Return whether OpenCV decodes a page of a TIFF as it is.

    Of several samples that are no colours OpenCV drops or mixes some, planes of 16 bits it mixes,
    white that is 0 it inverts, and colours of 8 bits it multiplies by their transparency.
    """
    if page.photometric == tiff.RGB and page.planes != tiff.SEPARATE:
        multiplied = page.bits == 8 and page.extra[:1] == (tiff.UNASSOCIATED,)
        return page.samples == 3 or (page.samples == 4 and not multiplied)
    if page.photometric == tiff.BLACK_IS_ZERO:
        return page.samples == 1
    if page.photometric == tiff.RGB:
        return False
    # Black and white of 1 bit, palettes and compressed colours become colours for the eye.
    return page.photometric != tiff.WHITE_IS_ZERO or page.bits < 8


def _joined(pages: Sequence[np.ndarray]) -> np.ndarray:
    if len({page.shape for page in pages}) > 1:
        raise ValueError('its pages differ in size')
    return np.concatenate([page.reshape(*page.shape[:2], -1) for page in pages], axis=2)


def _by_tifffile(content: bytes) -> list[np.ndarray]:
    """Decode the pages of a TIFF whose samples OpenCV does not decode as they are."""
    import io

    try:
        import tifffile
    except ImportError:
        raise ValueError(
            'OpenCV cannot decode it; a TIFF of more than four channels, or of several that are '
            'no colours, may need `pip install tifffile`'
        ) from None
    pages = []
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            for page in file.pages:
                if page.is_reduced:
                    continue
                image = page.asarray()
                if image.ndim == 3 and page.planarconfig == tiff.SEPARATE:
                    image = np.moveaxis(image, 0, 2)
                if image.ndim not in (2, 3):
                    raise ValueError(f'a page has the shape {image.shape}')
                if page.photometric == tiff.RGB and image.ndim == 3 and image.shape[2] <= 4:
                    image = np.concatenate([image[..., 2::-1], image[..., 3:]], axis=2)
                orientation = page.tags.valueof(tiff.ORIENTATION, 1)
                pages.append(tiff.turned(image, int(orientation)))
    except Exception as error:  # of a format with many kinds of damage
        raise ValueError(f'tifffile cannot decode it ({error})') from error
    if not pages:
        raise ValueError('tifffile cannot decode it (it has no page)')
    return pages


def measure_raw(folder: str | os.PathLike, names: Sequence[str]) -> RawFormat:
    """Measure mean and standard deviation of the channels on a sample of the images.

    Args:
        folder: Of the images.
        names: Files in it.

    Raises:
        ValueError: if an image cannot be decoded, has other channels than the first, or numbers
            that are no integers.
    """
    chosen = names[:: max(1, len(names) // _SAMPLE)]
    first, count, largest = chosen[0], 0, 0
    total = squares = np.zeros(0)
    for name in chosen:
        try:
            image = decode_raw(Path(folder, name).read_bytes())
        except ValueError as error:
            raise ValueError(f'image {Path(folder, name)}: {error}') from error
        channels = image.shape[2]
        if image.dtype.kind not in 'ui':
            raise ValueError(
                f'image {Path(folder, name)} holds {image.dtype}: integers of 8 or 16 bits are read'
            )
        if count and channels != len(total):
            raise ValueError(
                f'image {Path(folder, name)} has {channels} channels and {first} has {len(total)}: '
                'all need the same'
            )
        values = image.reshape(-1, channels).astype(np.float64)
        count += len(values)
        total = total + values.sum(0) if len(total) else values.sum(0)
        squares = squares + (values**2).sum(0) if len(squares) else (values**2).sum(0)
        largest = max(largest, int(image.max()))
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return RawFormat(
        len(mean),
        largest,
        [round(float(x), 3) for x in mean],
        # A channel that is constant tells nothing, and must not be divided by 0.
        [round(float(x), 3) or 1.0 for x in std],
    )


def viewable(image: np.ndarray) -> np.ndarray:
    """Return an image for the eye: of 8 bits, blue, green and red.

    Args:
        image: Of shape (H, W, C), any type. One channel, or two, are shown as grey, of more the
            first three.

    Returns:
        Of shape (H, W, 3), uint8; stretched between the 1st and the 99th percentile unless it has
        8 bits.
    """
    shown = image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)
    if shown.dtype != np.uint8:
        low, high = np.percentile(shown, (1, 99))
        scaled = (shown.astype(np.float32) - low) / max(float(high - low), 1.0)
        shown = (scaled.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(shown)


def reads_raw(pipeline: Sequence[dict[str, Any]]) -> bool:
    """Return whether a pipeline loads images by :class:`mmws.data.raw_pipeline.LoadRawImage`."""
    return any(str(step.get('type')).endswith('LoadRawImage') for step in pipeline)
