"""Write the digits one by one, as folders of images for classification."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np

from .scenes import load_glyphs
from .settings import CLASSES

_VAL_PART = 5  # one digit of so many is for validation


def write_single_digits(out_dir: str | Path, size: int = 64, limit: int | None = None) -> Path:
    """Write the 1797 digits in the layout of ImageNet: all of them, or nothing.

    ::

        out_dir/{train,val}/{0,1,...,9}/*.png

    Every fifth digit is for validation, the others are for training.

    Args:
        out_dir: Folder to write, which does not exist or is empty.
        size: Width and height of an image, in pixels.
        limit: Most images of a class in a split; None writes all.

    Returns:
        ``out_dir``, absolute.

    Raises:
        FileExistsError: If ``out_dir`` is not empty.
        ImportError: If scikit-learn is not installed.
        ValueError: If ``size`` or ``limit`` is below 1.
    """
    for name, value in (('size', size), ('limit', limit)):
        if value is not None and value < 1:
            raise ValueError(f'{name} must be at least 1, got {value}')
    out_dir = Path(out_dir).resolve()
    if out_dir.is_file() or (out_dir.is_dir() and any(out_dir.iterdir())):
        raise FileExistsError(f'{out_dir} is not empty: name another folder, or remove it')
    glyphs, labels = load_glyphs()
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out_dir.name}-', dir=out_dir.parent) as work:
        new = Path(work) / 'new'
        for split in ('train', 'val'):
            for name in CLASSES:
                (new / split / name).mkdir(parents=True)
        written: dict[tuple[str, int], int] = {}
        for index, (glyph, label) in enumerate(zip(glyphs, labels)):
            split = 'train' if index % _VAL_PART else 'val'
            count = written.get((split, label), 0)
            if limit is not None and count >= limit:
                continue
            written[split, label] = count + 1
            image = cv2.resize(glyph, (size, size), interpolation=cv2.INTER_CUBIC)
            pixels = np.clip(255 * image, 0, 255).astype(np.uint8)
            cv2.imwrite(str(new / split / CLASSES[label] / f'{index:04}.png'), pixels)
        if out_dir.exists():
            out_dir.rmdir()
        new.rename(out_dir)
    return out_dir
