"""Masks as COCO's compressed run-length encoding, in the form that JSON can hold."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as mask_utils


def encode_masks(masks: np.ndarray) -> list[dict]:
    """Encode masks exactly.

    Args:
        masks: Boolean or uint8 of 0 and 1, of shape (H, W, N).

    Returns:
        N dicts of ``size`` [H, W] and ``counts``, a string.
    """
    return [
        {'size': rle['size'], 'counts': rle['counts'].decode('ascii')}
        for rle in mask_utils.encode(np.asfortranarray(masks, np.uint8))
    ]
