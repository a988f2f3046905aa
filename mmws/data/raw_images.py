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

_SAMPLE = 200  # images whose values are measured
_TIFF = (b'II*\x00', b'MM\x00*', b'II+\x00', b'MM\x00+')


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
    return content[:4] in _TIFF


def decode_raw(content: bytes) -> np.ndarray:
    """Decode an image file with all of its bits and channels.

    Args:
        content: Bytes of the file.

    Returns:
        Of shape (H, W, C) and the type of the file. Colours are in OpenCV's order, blue first. The
        pages of a TIFF become channels, in their order.

    Raises:
        ValueError: if it cannot be decoded, or its pages differ in size.
    """
    data = np.frombuffer(content, np.uint8)
    pages: Sequence[np.ndarray] = ()
    try:
        if is_tiff(content):
            _, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED)
        elif content:
            image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
            pages = () if image is None else (image,)
    except cv2.error:
        pages = ()
    if not pages:
        pages = [_by_tifffile(content)] if is_tiff(content) else ()
    if not pages:
        raise ValueError('OpenCV cannot decode it')
    if len({page.shape for page in pages}) > 1:
        raise ValueError('its pages differ in size')
    return np.concatenate([page.reshape(*page.shape[:2], -1) for page in pages], axis=2)


def _by_tifffile(content: bytes) -> np.ndarray:
    """Decode a TIFF with more than four samples a pixel, which OpenCV does not know."""
    import io

    try:
        import tifffile
    except ImportError:
        raise ValueError(
            'OpenCV cannot decode it; a TIFF of more than four channels may need `pip install '
            'tifffile`'
        ) from None
    try:
        image = tifffile.imread(io.BytesIO(content))
    except Exception as error:  # of a format with many kinds of damage
        raise ValueError(f'tifffile cannot decode it ({error})') from error
    if image.ndim != 3:
        raise ValueError(f'tifffile cannot decode it to an image, but to the shape {image.shape}')
    # The channels come first where each has a plane of its own; they are fewer than rows.
    return np.moveaxis(image, 0, 2) if image.shape[0] < image.shape[2] else image


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
