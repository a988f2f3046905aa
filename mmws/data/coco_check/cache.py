"""Remember what was found in an annotation file, by its content."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmws.files import replacing

from .check import check_entries
from .images import check_files
from .pixels import ImageState, check_pixels
from .report import CocoReport, Problem

VERSION = 4  # of the checks; raise it with every change of what they find or say
_KEPT = 64  # files in the folder; the ones used longest ago are removed

_BLOCK = 1 << 22  # bytes


def cached_check(
    json_path: str | Path,
    img_dir: str | Path | None = None,
    masks: bool = True,
    split: str = 'train',
    every_image: bool = False,
    raw: bool = False,
) -> CocoReport:
    """Do what :func:`mmws.data.coco_check.check_coco` does, but look at the same content once.

    What was found is kept in ``~/.cache/mmws/checks``, or under ``$XDG_CACHE_HOME`` or
    ``$MMWS_CACHE_DIR``: of annotations by a hash of their file, of images by path, size and time of
    change. Whether the image files are there is looked up each time. ``raw`` is for images that are
    read with all bits and channels (:mod:`mmws.data.raw_images`).
    """
    path = Path(json_path)
    store = _store(path, masks)
    kept = _read(store, str(json_path)) if store else None
    report, states = kept or (check_entries(path, masks), {})
    found: dict[str, ImageState] = {}
    entries = CocoReport(**{**vars(report), 'problems': list(report.problems)})
    if report.file_names:
        check_files(report, img_dir, split)
        if report.img_dir is not None:
            found = check_pixels(report, every_image, states, raw)
    if store and (kept is None or not found.keys() <= states.keys()):
        _write(store, entries, {**states, **found})
    return report


def _folder() -> Path:
    own, common = os.environ.get('MMWS_CACHE_DIR'), os.environ.get('XDG_CACHE_HOME')
    return Path(own or Path(common or Path.home() / '.cache', 'mmws'), 'checks')


def _store(path: Path, masks: bool) -> Path | None:
    """Return the file in which to remember a check; ``None`` if the annotations are unreadable."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open('rb') as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return _folder() / f'{digest.hexdigest()}-{"masks" if masks else "boxes"}-{VERSION}.json'
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return None


def _read(store: Path, path: str) -> tuple[CocoReport, dict[str, ImageState]] | None:
    try:
        data: dict[str, Any] = json.loads(store.read_text(encoding='utf-8'))
        os.utime(store)
    except (OSError, ValueError):
        return None
    report = data['report']
    was = report['path']
    problems = [
        Problem(**{**p, 'examples': tuple(p['examples']), 'text': path + p['text'][len(was) :]})
        for p in report.pop('problems')
    ]
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in report.items()
    }
    fields['sizes'] = tuple((width, height) for width, height in fields['sizes'])
    states = {key: ImageState(tuple(size), *rest) for key, (size, *rest) in data['images'].items()}
    fields |= {'path': path, 'problems': problems}
    return CocoReport(**fields), states


def _write(store: Path, report: CocoReport, states: dict[str, ImageState]) -> None:
    """Remember a check; a folder that cannot be written costs time at the next start, no more."""
    content = {'report': {**asdict(report), 'img_dir': None}, 'images': states}
    try:
        with replacing(store) as draft:
            draft.write_text(json.dumps(content), encoding='utf-8')
        old = sorted(store.parent.glob('*.json'), key=lambda path: path.stat().st_mtime)
        for path in old[:-_KEPT]:
            path.unlink(missing_ok=True)
    except OSError:
        pass
