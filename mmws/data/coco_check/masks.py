"""Whether masks can be drawn: by pycocotools, which ends the process on some that cannot."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .fields import is_number

# A polygon may reach over the edge of its image, but pycocotools walks along it pixel by pixel and
# takes memory for each: 1e9 pixels end the process.
FAR = 1e5


class MaskState(NamedTuple):
    """What was found in one ``segmentation``.

    Attributes:
        kind: ``''`` for a sound mask, else a key of :data:`mmws.data.coco_check.kinds.KINDS`.
        reason: What is wrong, for the message.
        size: Height and width of an RLE; ``None`` for polygons.
        usable: Whether training can use it; a mask with one sound polygon among bad ones is usable.
    """

    kind: str = ''
    reason: str = ''
    size: tuple[int, int] | None = None
    usable: bool = True


_SOUND = MaskState()
_FEW_POINTS = MaskState('bad_masks', usable=True)
_NO_POLYGON = MaskState('bad_masks', usable=False)


def _broken(reason: str) -> MaskState:
    return MaskState('broken_masks', reason, usable=False)


def check_mask(mask: Any) -> MaskState:
    """Check a mask: a list of polygons, or RLE, compressed or not."""
    if isinstance(mask, list):
        return _check_polygons(mask) if mask else _none('an empty list')
    if isinstance(mask, dict):
        return _check_rle(mask) if mask else _none('an empty object')
    if mask is None:
        return _none('missing')
    return _broken('neither a list of polygons nor RLE')


def _none(reason: str) -> MaskState:
    return MaskState('no_masks', reason, usable=False)


def _check_polygons(polygons: list) -> MaskState:
    if all(is_number(value) for value in polygons):
        return _none('one list of numbers instead of a list of polygons')
    few = 0
    for polygon in polygons:
        if not isinstance(polygon, list):
            return _broken('a list of something else than polygons')
        try:
            # Sums are quick, and fail or are not finite where a value is no finite number.
            sound = not polygon or (
                max(polygon) < FAR and min(polygon) > -FAR and abs(sum(polygon)) < float('inf')
            )
        except (TypeError, OverflowError):
            return _broken('a polygon of something else than numbers')
        if not sound:
            return _broken(
                'a polygon with a number that is not finite'
                if not all(map(is_number, polygon))
                else f'a polygon that reaches further than {FAR:.0f} pixels'
            )
        few += len(polygon) < 6 or len(polygon) % 2
    if not few:
        return _SOUND
    return _FEW_POINTS if few < len(polygons) else _NO_POLYGON


def _check_rle(mask: dict) -> MaskState:
    size, counts = mask.get('size'), mask.get('counts')
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(type(side) is int and 0 < side < FAR for side in size)
    ):
        return _broken("RLE whose 'size' is not [height, width]")
    shape = size[0], size[1]
    if isinstance(counts, str):
        runs = decode_counts(counts)
    elif isinstance(counts, list) and all(type(run) is int and abs(run) < 2**40 for run in counts):
        runs = np.array(counts, np.int64)
    else:
        return _broken("RLE whose 'counts' is neither text nor a list of whole numbers")
    if runs is None or (runs < 0).any() or runs.sum() != size[0] * size[1]:
        return _broken("RLE whose 'counts' cannot be decoded to an image of its 'size'")
    return MaskState(size=shape)


def decode_counts(text: str) -> np.ndarray | None:
    """Return the run lengths of COCO's compressed RLE, or ``None`` if the text is none.

    Each run is written in groups of 5 bits, the lowest first; bit 5 says that a group follows, and
    bit 4 of the last one is the sign. From the fourth run on the difference to the last but one is
    written (``rleFrString`` of cocoapi's ``maskApi.c``).

    Returns:
        Run lengths, (N,) int64.
    """
    try:
        groups = np.frombuffer(text.encode('ascii'), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not groups.size or ((groups < 0) | (groups > 63)).any():
        return None
    last = (groups & 32) == 0
    if not last[-1]:
        return None
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 8:  # 40 bits
        return None
    position = np.arange(groups.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((groups & 31) << (5 * position), starts)
    runs -= np.where(groups[ends] & 16, 1 << (5 * lengths), 0)
    # maskApi adds the run before the last one from the fourth run on.
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs
