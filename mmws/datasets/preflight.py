"""Tell before training, not minutes into it, that data are not where a config says."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config

# Data sets whose images are `data_prefix['img']` joined with `file_name` of the annotation file.
_COCO_LIKE = ('CocoDataset', 'CityscapesDataset', 'DeepFashionDataset', 'Objects365V1Dataset')
_VOC_LIKE = ('VOCDataset', 'XMLDataset')

_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
# Bytes read at each of the places where an annotation file is sampled: some hundred images.
_SAMPLE_BYTES = 1 << 16
_SAMPLES = 5


def check_data(cfg: Config, splits: Sequence[str] = ('train', 'val')) -> None:
    """Check that annotation files, image folders and a few images of a config exist.

    Takes milliseconds whatever the size of the data: annotation files are sampled, not parsed.
    Remote data (a URL, or ``backend_args`` of a remote storage) are not looked at.

    Args:
        cfg: Config with ``<split>_dataloader`` and ``<split>_evaluator``; what it lacks is skipped.
        splits: ``'train'``, ``'val'``, ``'test'``.

    Raises:
        FileNotFoundError: naming, in one line, the split, the first missing path (absolute) and
            what to do.
        ValueError: if a path in the config is not a string, or an annotation file is cut off.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for key, dataset in _datasets(loader.get('dataset'), f'{split}_dataloader.dataset'):
            _check_dataset(split, key, dataset)
        evaluators = cfg.get(f'{split}_evaluator') or {}
        several = isinstance(evaluators, (list, tuple))
        for i, evaluator in enumerate(evaluators if several else [evaluators]):
            key = f'{split}_evaluator.{i}' if several else f'{split}_evaluator'
            ann_file = evaluator.get('ann_file')
            if ann_file and not _is_remote(evaluator):
                _require(ann_file, split, 'annotation file of the evaluator', f'{key}.ann_file')


def _datasets(node: Any, key: str) -> 'Iterator[tuple[str, dict]]':
    """Yield the data sets inside wrappers, each with its dotted key in the config."""
    if isinstance(node, (list, tuple)):
        for i, inner in enumerate(node):
            yield from _datasets(inner, f'{key}.{i}')
    elif isinstance(node, dict):
        inner_keys = [name for name in ('dataset', 'datasets') if name in node]
        for name in inner_keys:
            yield from _datasets(node[name], f'{key}.{name}')
        if not inner_keys:
            yield key, node


def _check_dataset(split: str, key: str, dataset: dict) -> None:
    if _is_remote(dataset):
        return
    root = dataset.get('data_root') or ''
    settings = {'ann_file': dataset.get('ann_file')}
    prefixes = dataset.get('data_prefix') or {}
    if not isinstance(prefixes, dict):
        raise ValueError(
            f'{key}.data_prefix must be a dict such as dict(img=...), got {prefixes!r}'
        )
    for name, prefix in prefixes.items():
        settings[f'data_prefix.{name}'] = prefix
    paths = {}
    for name, path in settings.items():
        if not isinstance(path, (str, type(None))):
            raise ValueError(f'{key}.{name} must be a path, got {path!r}')
        # As MMEngine's BaseDataset joins them; an absolute path does not follow data_root.
        follows_root = bool(root) and not os.path.isabs(path or '')
        paths[name] = os.path.join(root, path or '') if follows_root else path or ''
        if path:
            what = 'annotation file' if name == 'ann_file' else f'folder {name}'
            _require(paths[name], split, what, f'{key}.{"data_root" if follows_root else name}')

    for image in _some_images(dataset, paths):
        what = f'image named in {os.path.abspath(paths["ann_file"])}'
        _require(image, split, what, f'{key}.data_root' if root else f'{key}.data_prefix.img')


def _some_images(dataset: dict, paths: 'dict[str, str]') -> 'list[str]':
    """Return paths of a few images that the annotation file names, spread over the file."""
    kind, ann_file = str(dataset.get('type')).rpartition('.')[2], paths['ann_file']
    if kind in _COCO_LIKE and ann_file.endswith('.json'):
        folder = paths.get('data_prefix.img', '')
        return [os.path.join(folder, name) for name in _sampled_file_names(ann_file)]
    if kind in _VOC_LIKE and ann_file:
        with open(ann_file, encoding='utf-8') as file:
            ids = file.read().split()
        images = dataset.get('img_subdir', 'JPEGImages')
        folder = os.path.join(paths.get('data_prefix.sub_data_root', ''), images)
        chosen = ids[:: max(1, len(ids) // _SAMPLES)]
        return [os.path.join(folder, f'{image_id}.jpg') for image_id in chosen]
    return []


def _sampled_file_names(ann_file: str) -> 'list[str]':
    size = os.path.getsize(ann_file)
    names: dict[str, None] = {}
    with open(ann_file, 'rb') as file:
        file.seek(max(0, size - 4096))
        if not file.read().rstrip().endswith(b'}'):
            raise ValueError(f'annotation file {ann_file} is incomplete: make or download it again')
        for i in range(_SAMPLES):
            file.seek(i * size // _SAMPLES)
            found = _FILE_NAME.findall(file.read(_SAMPLE_BYTES))
            # First and last of a stretch: a few stats per sample.
            for name in found[:1] + found[-1:]:
                names[json.loads(name)] = None
    return list(names)


def _is_remote(node: dict) -> bool:
    backend = (node.get('backend_args') or {}).get('backend', 'local')
    paths = [node.get('data_root'), node.get('ann_file')]
    return backend != 'local' or any('://' in path for path in paths if isinstance(path, str))


def _require(path: str, split: str, what: str, key: str) -> None:
    if '://' in path or os.path.exists(path):
        return
    raise FileNotFoundError(
        f'{split}: {what} {os.path.abspath(path)} does not exist: put the data there, or pass '
        f'--cfg-options {key}=<path>'
    )
