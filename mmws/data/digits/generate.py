"""Write a digits set whole, or not at all."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .coco_layout import CocoWriter
from .scenes import render_scenes
from .settings import VERSION, DigitsConfig
from .voc_layout import VocWriter

_STAMP = 'digits.json'


def _stamp(config: DigitsConfig) -> str:
    return json.dumps({'made_by': 'mmws', 'version': VERSION, **asdict(config)}, indent=2) + '\n'


def is_up_to_date(out_dir: str | Path, config: DigitsConfig) -> bool:
    """Return whether ``out_dir`` holds the set that :func:`generate_digits` would write."""
    stamp = Path(out_dir) / _STAMP
    return stamp.is_file() and stamp.read_text() == _stamp(config)


def generate_digits(
    out_dir: str | Path, config: DigitsConfig | None = None, **overrides: Any
) -> Path:
    """Write the digits set: all of it, or nothing.

    ::

        out_dir/annotations/instances_{train,val}.json    COCO; category i + 1 is the digit i
        out_dir/{train,val}/*.png
        out_dir/VOCdevkit/VOC2012/...                     the same scenes in JPEG, if config.voc
        out_dir/digits.json                               the stamp: what the set was made from

    The same arguments write the same bytes with the same versions of NumPy, OpenCV and Pillow.
    A folder that holds the wanted set already is left alone; a digits set of other arguments is
    replaced.

    Args:
        out_dir: Folder to write.
        config: What to write; the defaults of :class:`DigitsConfig` if None.
        **overrides: Fields of :class:`DigitsConfig` to change in ``config``.

    Returns:
        ``out_dir``, absolute.

    Raises:
        FileExistsError: If ``out_dir`` holds anything that this function did not write.
        ImportError: If scikit-learn is not installed.
        ValueError: If a field of the config is out of range.
    """
    config = replace(config or DigitsConfig(), **overrides)
    out_dir = Path(out_dir).resolve()
    if is_up_to_date(out_dir, config):
        return out_dir
    _require_replaceable(out_dir)

    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out_dir.name}-', dir=out_dir.parent) as work:
        new = Path(work) / 'new'
        new.mkdir()
        voc = VocWriter(new) if config.voc else None
        for split in ('train', 'val'):
            coco = CocoWriter(new, split, config.mask_format)
            for scene in render_scenes(config, split):
                coco.add(scene)
                if voc is not None:
                    voc.add(scene, split)
            coco.close()
        if voc is not None:
            voc.close()
        (new / _STAMP).write_text(_stamp(config))
        if out_dir.exists():
            out_dir.rename(Path(work) / 'old')
        new.rename(out_dir)
    return out_dir


def _require_replaceable(out_dir: Path) -> None:
    """Raise unless ``out_dir`` is absent, empty or a digits set with nothing added to it."""
    if not out_dir.exists():
        return
    present = {path.name for path in out_dir.iterdir()} if out_dir.is_dir() else {out_dir.name}
    ours = {_STAMP, 'annotations', 'train', 'val', 'VOCdevkit'}
    if present and (_STAMP not in present or present - ours):
        raise FileExistsError(
            f'{out_dir} holds something other than a digits set: name another folder, or remove it'
        )
