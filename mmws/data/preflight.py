"""Tell before training, not minutes into it, what is wrong with a config's data."""

import json
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config

from mmws.config.tree import datasets, dotted, kind, walk

from .coco_check.cache import cached_check
from .download import download_hint
from .errors import DataError
from .raw_images import reads_raw
from .voc import conversion_hint

# Data sets whose images are `data_prefix['img']` joined with `file_name` of the annotation file,
# and which number their classes in the order of its categories.
_COCO_LIKE = ('CocoDataset', 'CityscapesDataset', 'DeepFashionDataset', 'Objects365V1Dataset')
_ORDERED_BY_ID = 'Objects365V1Dataset'
_VOC_LIKE = ('VOCDataset', 'XMLDataset')
# Parts of a model whose `num_classes` is not the data set's: ImageNet's, object against
# background, stuff.
NOT_HEADS = ('backbone', 'neck', 'data_preprocessor', 'rpn_head', 'semantic_head')

# COCO evaluation stops on these, training does not.
FATAL_IN_EVALUATION = ('no_iscrowd', 'bad_masks')

_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
# Bytes read at each of the places where an annotation file is sampled: some hundred images.
_SAMPLE_BYTES = 1 << 16
_SAMPLES = 5
_CATEGORIES_BYTES = 1 << 24  # more than any list of categories takes


def check_data(cfg: Config, splits: Sequence[str] = ('train', 'val')) -> None:
    """Check the data of a config; see :func:`find_problems`.

    Raises:
        DataError: with one line for each problem.
    """
    problems = find_problems(cfg, splits)
    if problems:
        raise DataError(problems)


def find_problems(cfg: Config, splits: Sequence[str] = ('train', 'val')) -> 'list[str]':
    """Return what is wrong with the data of a config, one line each, with what to do about it.

    Annotation files, image folders and a few images must exist, annotation files be complete and
    have every class of the config, in its order, and every head must have as many classes. Every
    annotation is checked by :func:`mmws.data.coco_check.check_coco`, and a sample of the images
    decoded; the next start with the same files remembers what was found.

    Remote data (a URL, or ``backend_args`` of a remote storage) are not looked at.

    Args:
        cfg: Config with ``<split>_dataloader`` and ``<split>_evaluator``; what it lacks is skipped.
        splits: ``'train'``, ``'val'``, ``'test'``.
    """
    found: dict[str, str] = {}  # problem -> the first split that has it
    for split in splits:
        for problem in _problems_of(cfg, split):
            found.setdefault(problem, split)
    return [f'{split}: {problem}' for problem, split in found.items()]


def _problems_of(cfg: Config, split: str) -> 'Iterator[str]':
    loader = cfg.get(f'{split}_dataloader') or {}
    for path, dataset in datasets(loader.get('dataset'), (f'{split}_dataloader', 'dataset')):
        key = dotted(path)
        if not _is_remote(dataset):
            yield from _dataset_problems(key, dataset, split, _scored(cfg, split))
        yield from _head_problems(cfg.get('model') or {}, dataset)
    for key, evaluator in _evaluators(cfg, split):
        ann_file = evaluator.get('ann_file')
        if ann_file and not _is_remote(evaluator) and not _is_there(ann_file):
            yield _missing(ann_file, 'annotation file of the evaluator', f'{key}.ann_file')


def _evaluators(cfg: Config, split: str) -> 'Iterator[tuple[str, dict]]':
    """Yield the metrics of a split, each with its dotted key."""
    key = f'{split}_evaluator'
    evaluators = cfg.get(key) or {}
    if isinstance(evaluators, dict) and 'metrics' in evaluators:
        key, evaluators = f'{key}.metrics', evaluators['metrics']
    if isinstance(evaluators, dict):
        yield key, evaluators
    else:
        yield from ((f'{key}.{i}', e) for i, e in enumerate(evaluators) if isinstance(e, dict))


def _scored(cfg: Config, split: str) -> 'set[str]':
    """Return what the metrics of a split score: ``'bbox'``, ``'segm'``, both or nothing."""
    found = set()
    for _, evaluator in _evaluators(cfg, split):
        if not evaluator.get('format_only'):
            metric = evaluator.get('metric') or ['bbox']
            metrics = metric if isinstance(metric, (list, tuple)) else [metric]
            found |= {name for name in metrics if isinstance(name, str)}
    return found


def _dataset_problems(key: str, dataset: dict, split: str, scored: 'set[str]') -> 'Iterator[str]':
    root = dataset.get('data_root') or ''
    settings = {'ann_file': dataset.get('ann_file')}
    prefixes = dataset.get('data_prefix') or {}
    if not isinstance(prefixes, dict):
        yield f'{key}.data_prefix must be a dict such as dict(img=...), got {prefixes!r}'
        return
    for name, prefix in prefixes.items():
        settings[f'data_prefix.{name}'] = prefix
    paths, missing, under_root = {}, [], []
    for name, path in settings.items():
        if not isinstance(path, (str, type(None))):
            several = isinstance(path, (list, tuple)) and name == 'ann_file'
            fix = (
                ": for several files take a data set for each in dict(type='ConcatDataset', "
                'datasets=[...])'
            )
            yield f'{key}.{name} must be a path, got {path!r}{fix if several else ""}'
            return
        # As MMEngine's BaseDataset joins them; an absolute path does not follow data_root.
        follows_root = bool(root) and not os.path.isabs(path or '')
        paths[name] = os.path.join(root, path or '') if follows_root else path or ''
        if path and not _is_there(paths[name]):
            what = 'annotation file' if name == 'ann_file' else f'folder {name}'
            if follows_root:
                under_root.append((paths[name], what, f'{key}.data_root'))
            else:
                missing.append((paths[name], what, f'{key}.{name}'))
    if under_root and not _is_there(root):
        # One line says it all, with the command that brings what is wanted of it.
        lines = [_missing(root, 'folder', f'{key}.data_root', wanted=under_root[0][0])]
    else:
        lines = [_missing(*entry) for entry in under_root]
    lines += [_missing(*entry) for entry in missing]
    if lines:
        yield from lines
        return

    folder_key = f'{key}.data_root' if root else f'{key}.data_prefix.img'
    try:
        image = next((i for i in _some_images(dataset, paths) if not _is_there(i)), None)
    except ValueError as error:
        yield str(error)
        return
    if image is not None:
        what = f'image that a file_name in {os.path.abspath(paths["ann_file"])} names,'
        yield _missing(image, what, folder_key)
    fault = class_fault(dataset)
    if fault:
        yield f'{key}.metainfo.classes {fault}'
    else:
        yield from _class_problems(key, dataset, paths['ann_file'])
    if image is None:
        yield from _annotation_problems(key, dataset, paths, split, scored)


def _annotation_problems(
    key: str, dataset: dict, paths: 'dict[str, str]', split: str, scored: 'set[str]'
) -> 'Iterator[str]':
    """Check every annotation, and a sample of the images, of a data set in COCO's format."""
    ann_file = paths['ann_file']
    if kind(dataset) not in _COCO_LIKE or not ann_file.endswith('.json'):
        return
    trains = split == 'train'
    if not trains and not scored:
        return  # images to predict on, whose file may hold no annotations
    steps = walk(dataset.get('pipeline') or ())
    reads_masks = any(path[-1:] == ('with_mask',) and value for path, value in steps)
    report = cached_check(
        os.path.abspath(ann_file),
        os.path.abspath(paths.get('data_prefix.img') or '.'),
        masks=reads_masks if trains else 'segm' in scored,
        split=split,
        raw=reads_raw(dataset.get('pipeline') or ()),
    )
    for problem in report.problems:
        if problem.severity == 'error' or (not trains and problem.kind in FATAL_IN_EVALUATION):
            yield problem.text.replace('`img_dirs`', f'{key}.data_prefix.img')


def _class_problems(key: str, dataset: dict, ann_file: str) -> 'Iterator[str]':
    """Compare the classes of a config with the categories of its annotation file."""
    if kind(dataset) not in _COCO_LIKE or not ann_file.endswith('.json'):
        return
    classes, categories = _classes(dataset), _categories(ann_file)
    if classes is None or categories is None:
        return
    if kind(dataset) == _ORDERED_BY_ID:
        categories = sorted(categories, key=lambda category: category['id'])
    names = [category['name'] for category in categories]
    fix = f"set {key}.metainfo=dict(classes=(...)) to the names of the file's categories"
    path = os.path.abspath(ann_file)
    absent = [name for name in classes if name not in names]
    if absent:
        # MMDetection leaves them out, and the labels of all classes after them shift.
        yield (
            f'{len(absent)} of {len(classes)} classes are not among the {len(names)} categories '
            f'of {path} ({_few(absent)}; it has {_few(names)}): {fix}'
        )
    elif [name for name in names if name in classes] != list(classes):
        yield (
            f'the classes are in another order than the categories of {path}, by which MMDetection '
            f'numbers them, so that they would be called by wrong names: {fix}, in its order'
        )


def _head_problems(model: dict, dataset: dict) -> 'Iterator[str]':
    # Others count otherwise: panoptic ones things and stuff, grounding ones words.
    if kind(dataset) not in (*_COCO_LIKE, *_VOC_LIKE) or 'language_model' in model:
        return
    classes = _classes(dataset)
    for key, num_classes in head_classes(model):
        if classes is not None and num_classes != len(classes):
            yield (
                f'{key} is {num_classes} while the data have {len(classes)} classes '
                f'({_few(classes)}): pass `cfg_options` {key}={len(classes)}, or set the classes, '
                'metainfo=dict(classes=(...)) of the data set'
            )


def head_classes(model: Any, key: str = 'model') -> 'Iterator[tuple[str, int]]':
    """Yield the ``num_classes`` of the heads that predict the classes of the data set.

    Args:
        model: ``model`` of a config, or a part of it.
        key: Its dotted key.

    Yields:
        The dotted key of each ``num_classes``, and its value.
    """
    for path, value in walk(model, (key,), enter=lambda path, _: path[-1] not in NOT_HEADS):
        if path[-1] == 'num_classes' and isinstance(value, int):
            yield dotted(path), value


def train_classes(cfg: Config) -> 'Sequence[str] | None':
    """Return the class names of the training data of a config; ``None`` if they cannot be told."""
    loader = cfg.get('train_dataloader') or {}
    first = next(datasets(loader.get('dataset')), None)
    return None if first is None or class_fault(first[1]) else _classes(first[1])


def class_fault(dataset: dict) -> 'str | None':
    """Return what is wrong with the type of ``metainfo.classes``; ``None`` if nothing is."""
    given = (dataset.get('metainfo') or {}).get('classes')
    if isinstance(given, str):
        if os.path.isfile(given):
            return None
        return (
            f'is the text {given!r}, of which every letter would be a class: write a tuple, '
            f'({given!r},) with the comma, or a list'
        )
    if given is not None and not isinstance(given, (list, tuple)):
        return (
            f'is a {type(given).__name__}, whose order may differ between processes: write a list '
            'or a tuple'
        )
    names = [name for name in given or () if not isinstance(name, str)]
    return f'holds {names[0]!r}, which is no text' if names else None


def _class_file(path: str) -> 'list[str]':
    """Return the names in a file as MMEngine reads it: one a line."""
    with open(path, encoding='utf-8') as file:
        return [line.rstrip('\n\r') for line in file]


def _classes(dataset: dict) -> 'Sequence[str] | None':
    """Return the class names of a data set; ``None`` if they cannot be told."""
    given = (dataset.get('metainfo') or {}).get('classes')
    if isinstance(given, str) and os.path.isfile(given):
        return _class_file(given)
    if given is None:
        from mmdet.registry import DATASETS

        given = (getattr(DATASETS.get(kind(dataset)), 'METAINFO', None) or {}).get('classes')
    return given if isinstance(given, (list, tuple)) else None


def _categories(ann_file: str) -> 'list[dict] | None':
    """Return the categories of a COCO file, without reading all of it; ``None`` if it has none."""
    if not os.path.getsize(ann_file):
        return None
    with (
        open(ann_file, 'rb') as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        for start in _positions(content, b'"categories"'):
            key, _, text = (
                content[start : start + _CATEGORIES_BYTES].decode('utf-8', 'ignore').partition(':')
            )
            try:
                found, _ = json.JSONDecoder().raw_decode(text.lstrip())
            except ValueError:
                continue  # inside of a string
            if key.strip() == '"categories"' and _are_categories(found):
                return found
    return None


def _positions(content: mmap.mmap, word: bytes) -> 'Iterator[int]':
    """Yield where a word stands: first near the beginning, then from the end backwards."""
    first = content.find(word, 0, _SAMPLE_BYTES)
    if first >= 0:
        yield first
    end = len(content)
    while (end := content.rfind(word, 0, end)) >= 0:
        yield end


def _are_categories(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, dict) and {'id', 'name'} <= entry.keys() for entry in value
    )


def _few(names: Sequence[str]) -> str:
    return ', '.join(map(str, names[:5])) + (', ...' if len(names) > 5 else '')


def _some_images(dataset: dict, paths: 'dict[str, str]') -> 'list[str]':
    """Return paths of a few images that the annotation file names, spread over the file."""
    ann_file = paths['ann_file']
    if kind(dataset) in _COCO_LIKE and ann_file.endswith('.json'):
        folder = paths.get('data_prefix.img', '')
        return [os.path.join(folder, name) for name in _sampled_file_names(ann_file)]
    if kind(dataset) in _VOC_LIKE and ann_file:
        with open(ann_file, encoding='utf-8') as file:
            ids = [line for line in file.read().splitlines() if line]  # names may have spaces
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


def _is_there(path: str) -> bool:
    return '://' in str(path) or os.path.exists(path)


def _missing(path: str, what: str, key: str, wanted: str = '') -> str:
    """Return the line that tells that a path does not exist.

    Args:
        path: File or folder.
        what: What it is.
        key: Setting of the config that leads to it.
        wanted: What is wanted of a folder, if not all.
    """
    hint = conversion_hint(path) or download_hint(wanted or path)
    return (
        f'{what} {os.path.abspath(path)} does not exist: '
        f'{f"run `{hint}`" if hint else "put the data there"}, or pass `cfg_options` {key}=<path>'
    )
