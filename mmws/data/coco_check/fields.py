"""Whether the fields of an entry are there and of the type that MMDetection and pycocotools read.

Each function returns the first fault as (field, what is wrong), or ``None`` for a sound entry.
"""

from __future__ import annotations

from typing import Any

Fault = tuple[str, str]

MAX_SIDE = 100_000  # pixels; a larger image cannot be decoded anyway


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number that arithmetic in pixels can hold."""
    # NaN, which Python's JSON reader lets pass, is not between any limits.
    return type(value) in (int, float) and -1e12 < value < 1e12


def id_fault(entry: dict, field: str) -> Fault | None:
    """Check an id: text or an integer of 64 bits."""
    value = entry.get(field)
    if type(value) is int:
        return None if -(2**63) <= value < 2**63 else (field, 'is not a number of 64 bits')
    if isinstance(value, str):
        return None
    return field, _wrong(entry, field, 'neither a whole number nor text')


def text_fault(entry: dict, field: str) -> Fault | None:
    """Check a text that can be written to a file."""
    value = entry.get(field)
    if not isinstance(value, str) or not value:
        return field, _wrong(entry, field, 'no text')
    if '\0' in value or any('\ud800' <= char <= '\udfff' for char in value):
        return field, 'holds characters that are no text'
    return None


def image_fault(image: Any) -> Fault | None:
    """Check an entry of ``images``."""
    if not isinstance(image, dict):
        return '', 'are no objects'
    fault = id_fault(image, 'id') or text_fault(image, 'file_name')
    if fault:
        return fault
    for side in ('width', 'height'):
        value = image.get(side)
        if value is None or not (
            is_number(value) and 0 < value <= MAX_SIDE and value == int(value)
        ):
            return side, _wrong(image, side, 'no whole number of pixels above 0')
    return None


def category_fault(category: Any) -> Fault | None:
    """Check an entry of ``categories``."""
    if not isinstance(category, dict):
        return '', 'are no objects'
    return id_fault(category, 'id') or text_fault(category, 'name')


def annotation_fault(annotation: Any) -> Fault | None:
    """Check an entry of ``annotations``, except for its mask."""
    if not isinstance(annotation, dict):
        return '', 'are no objects'
    for field in ('id', 'image_id', 'category_id'):
        fault = id_fault(annotation, field)
        if fault:
            return fault
    box = annotation.get('bbox')
    if not isinstance(box, list) or len(box) != 4:
        return 'bbox', _wrong(annotation, 'bbox', 'no list of 4 numbers')
    if not all(map(is_number, box)):
        return 'bbox', 'holds something else than 4 finite numbers'
    if not is_number(annotation.get('area')):
        return 'area', _wrong(annotation, 'area', 'no finite number')
    return None


def _wrong(entry: dict, field: str, what: str) -> str:
    return f'is {what}' if field in entry else 'is missing'
