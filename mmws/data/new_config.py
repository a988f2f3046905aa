"""Write a config for a data set of one's own, from COCO or VOC annotations and a base config."""

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Optional, Union

from mmws.config import read_config
from mmws.config.code import Code, assign, base_path, is_under, write_config
from mmws.config.tree import DROP, KeyPath, datasets, dotted, kind, rewrite, value_at, walk

from .coco_check import CocoReport, check_coco
from .errors import DataError
from .palette import make_palette
from .preflight import NOT_HEADS, head_classes
from .voc import convert_voc, has_masks

StrPath = Union[str, Path]

# A detector that starts from pre-trained weights needs some 24,000 images to settle on a small data
# set (120 epochs of 200 images); beyond 300 epochs a tiny one only overfits. `epochs_for` is the
# rule.
MIN_IMAGES_SEEN = 24_000
MAX_EPOCHS = 300
# Evaluating and saving more often costs time and disk and tells nothing new.
MAX_EVALUATIONS = 12

# What is trained where the user names no base: with masks, and with boxes alone.
MASK_BASE = 'mmws::mask_rcnn/mask_rcnn_r50_gnws.py'
BOX_BASE = 'mmws::faster_rcnn/faster_rcnn_r50_gnws.py'

# COCO evaluation stops on these, training does not.
_FATAL_IN_VAL = ('no_iscrowd', 'bad_masks')


@dataclass
class NewConfig:
    """A config that was written, and what was found in its data.

    Attributes:
        path: The config file.
        train: Report on the training annotations.
        val: Report on the validation annotations.
        length: Length of the training, e.g. ``'120 epochs'``.
        warnings: What the user should know, one line each.
    """

    path: str
    train: CocoReport
    val: CocoReport
    length: str
    warnings: 'list[str]' = field(default_factory=list)

    def summary(self, rows: int = 10) -> str:
        """Return the report for the terminal, with the ``rows`` most frequent classes."""
        lines = []
        for split, report in (('train', self.train), ('val', self.val)):
            lines.append(
                f'{split}: {report.images} images, {report.instances} instances '
                f'({report.crowds} crowds), {len(report.classes)} classes; {report.img_dir}'
            )
        table = sorted(zip(self.train.counts, self.val.counts, self.train.classes), reverse=True)
        lines.append(f'{"train":>8} {"val":>8}  class')
        lines += [f'{in_train:>8} {in_val:>8}  {name}' for in_train, in_val, name in table[:rows]]
        if len(table) > rows:
            lines.append(f'{"":>18} and {len(table) - rows} more')
        lines += [f'warning: {warning}' for warning in self.warnings]
        config = shlex.quote(self.path)
        lines.append(f'wrote {self.path} ({self.length}); train with')
        lines.append(f'  tools/dist_train.sh {config} <number of GPUs>')
        lines.append(f'  python tools/train.py {config}')
        return '\n'.join(lines)


def new_config(
    train_json: Optional[StrPath] = None,
    val_json: Optional[StrPath] = None,
    img_dirs: Optional[Sequence[StrPath]] = None,
    base: Optional[StrPath] = None,
    images_per_gpu: int = 1,
    out: StrPath = 'configs/my_data.py',
    epochs: Optional[int] = None,
    iters: Optional[int] = None,
    force: bool = False,
    voc: Optional[StrPath] = None,
    splits: Sequence[str] = ('train', 'val'),
    classes: Optional[Sequence[str]] = None,
) -> NewConfig:
    """Check a data set and write the config that trains ``base`` on it.

    The data are two COCO files, or a tree in VOC's layout, whose splits
    :func:`mmws.data.voc.convert_voc` converts to COCO files in ``<voc>/annotations``: with
    masks where ``base`` trains masks, with the boxes of ``Annotations`` otherwise.

    Args:
        train_json: COCO instances file to train on.
        val_json: COCO instances file to evaluate on.
        img_dirs: Image folders of train and val, or one for both. ``None``: look near the files.
        base: Config to inherit from, a path or ``mmdet::folder/name.py``. ``None``:
            ``MASK_BASE``, or ``BOX_BASE`` for a VOC tree without masks.
        images_per_gpu: Images per GPU and step.
        out: File to write.
        epochs: Length of the training. ``None``: by :func:`epochs_for`; a base that counts
            iterations keeps its own.
        iters: Length in iterations, for a base that counts them; ``epochs`` excludes it.
        force: Overwrite ``out``.
        voc: A VOC tree, instead of the COCO files: the folder that holds ``JPEGImages``.
        splits: The lists of ``voc`` to train and to evaluate on.
        classes: Class names of ``voc``; the 20 of VOC if ``None``.

    Raises:
        FileNotFoundError: if the base config or the VOC tree is missing.
        FileExistsError: if ``out`` exists and ``force`` is not set, or a COCO file of another
            origin is where the VOC tree's would go.
        ValueError: if training on the data would crash or be silently wrong, one line for each
            reason; or if the base or an argument does not fit. No config is written.
    """
    out = Path(out)
    _check_arguments(train_json, val_json, img_dirs, base, images_per_gpu, out, epochs, iters, voc)
    if out.exists() and not force:
        raise FileExistsError(f'{out} exists: give --force to overwrite it, or another --out')
    command = _command(
        {
            '--train-json': train_json,
            '--val-json': val_json,
            '--img-dirs': img_dirs,
            '--voc': voc,
            '--splits': voc and splits,
            '--classes': classes,
            '--base': base,
            '--images-per-gpu': images_per_gpu,
            '--out': out,
            '--epochs': epochs,
            '--iters': iters,
        }
    )
    if base is None:
        base = MASK_BASE if voc is None or has_masks(voc) else BOX_BASE

    cfg = _load_base(base)
    masks = _reads_masks(cfg)
    dirs = list(img_dirs) if img_dirs else [None, None]
    warnings = []
    if voc is not None:
        # Boxes are annotated in more images than masks are; SBD has masks alone.
        boxes = not masks and Path(voc, 'Annotations').is_dir()
        converted = {r.split: r for r in convert_voc(voc, splits, classes, boxes)}
        reports = [converted[split] for split in splits]
        train_json, val_json = (report.path for report in reports)
        dirs = [report.img_dir for report in reports]
        warnings += [f'{r.split}: {warning}' for r in reports for warning in r.warnings]
    train = check_coco(train_json, dirs[0], masks=masks, split='train')
    val = check_coco(val_json, dirs[-1], masks=masks, split='val')
    errors, odd = _judge(train, val)
    errors += _class_errors(train, val) + _rle_errors(cfg, train)
    if errors:
        raise DataError(errors)
    warnings += odd + _comparison_warnings(train, val)

    text, length = _config_text(
        cfg, base_path(base, out), command, train, val, masks, images_per_gpu, epochs, iters
    )
    write_config(out, text)
    return NewConfig(str(out), train, val, length, warnings)


def _check_arguments(
    train_json: Optional[StrPath],
    val_json: Optional[StrPath],
    img_dirs: Optional[Sequence[StrPath]],
    base: Optional[StrPath],
    images_per_gpu: int,
    out: Path,
    epochs: Optional[int],
    iters: Optional[int],
    voc: Optional[StrPath],
) -> None:
    """Raise ValueError unless the arguments of :func:`new_config` go together."""
    files = [train_json, val_json]
    if files.count(None) == (0 if voc is not None else 2) or files.count(None) == 1:
        raise ValueError('give --train-json and --val-json, or --voc')
    if voc is not None and img_dirs:
        raise ValueError('--img-dirs goes with --train-json: the images of --voc are in its folder')
    if out.suffix != '.py':
        raise ValueError(f'--out {out}: a config is a .py file')
    if base and '::' not in str(base) and os.path.realpath(base) == os.path.realpath(out):
        raise ValueError(f'--base and --out are both {out}: give another --out')
    for option, value in (
        ('--images-per-gpu', images_per_gpu),
        ('--epochs', epochs),
        ('--iters', iters),
    ):
        if value is not None and value < 1:
            raise ValueError(f'{option} {value}: must be at least 1')
    if epochs and iters:
        raise ValueError('give --epochs or --iters, not both')
    if img_dirs and len(img_dirs) > 2:
        raise ValueError(f'--img-dirs takes one or two folders, got {len(img_dirs)}')


def epochs_for(images: int, base_epochs: int) -> int:
    """Return how many epochs to train on ``images`` images.

    The base's number, or as many as show the detector ``MIN_IMAGES_SEEN`` images, up to
    ``MAX_EPOCHS``.
    """
    return max(base_epochs, min(math.ceil(MIN_IMAGES_SEEN / images), MAX_EPOCHS))


def _load_base(base: StrPath) -> dict:
    cfg = read_config(base, name='--base').to_dict()
    for key in ('model', 'train_dataloader', 'val_dataloader', 'val_evaluator', 'train_cfg'):
        if not cfg.get(key):
            raise ValueError(f'--base {base} has no {key}: take a complete training config')
    for path, _ in walk(cfg['model'], ('model',)):
        if path[-1] == 'num_things_classes':
            raise ValueError(f'--base {base} segments things and stuff: take an instance config')
    for path, value in walk(cfg['train_dataloader'], ('train_dataloader',)):
        if value and (path[-2:] == ('data_prefix', 'seg') or path[-1] == 'proposal_file'):
            raise ValueError(
                f'--base {base} trains on {dotted(path[-2:])}, which a COCO instances '
                'file does not have: take another base'
            )

    # MMEngine notes where external values come from; without the note they read as in the base.
    def without_note(path: KeyPath, value: Any) -> Any:
        is_note = path[-1:] == ('_scope_',) and value == cfg.get('default_scope')
        return DROP if is_note else value

    return rewrite(cfg, without_note)


def _reads_masks(cfg: dict) -> bool:
    settings = walk(cfg['train_dataloader'], ('train_dataloader',))
    return any(path[-1] == 'with_mask' and value for path, value in settings)


# ---- Checks that need both files or the base


def _judge(train: CocoReport, val: CocoReport) -> 'tuple[list[str], list[str]]':
    """Return the errors and the warnings in both files."""
    errors, warnings = [], []
    for report in (train, val):
        for problem in report.problems:
            fatal = problem.severity == 'error' or (report is val and problem.kind in _FATAL_IN_VAL)
            (errors if fatal else warnings).append(problem.text)
    return errors, warnings


def _class_errors(train: CocoReport, val: CocoReport) -> 'list[str]':
    # A file without classes could not be read, which is reported already.
    if train.classes == val.classes or not train.classes or not val.classes:
        return []
    odd = sorted(set(train.classes) ^ set(val.classes))
    how = f'only one has {_few(odd)}' if odd else 'the order differs'
    return [
        f"{train.path} and {val.path}: 'categories' differ ({how}): give both files the same list "
        'in the same order, as MMDetection numbers classes by it'
    ]


def _rle_errors(cfg: dict, train: CocoReport) -> 'list[str]':
    settings = walk(cfg['train_dataloader'], ('train_dataloader',))
    ignores_rle = any(path[-1] == 'poly2mask' and not value for path, value in settings)
    if not (ignores_rle and train.rle_masks):
        return []
    return [
        f'{train.path}: {train.rle_masks} masks are RLE, which the base ignores: convert them to '
        'polygons, or take a --base without LoadAnnotations(poly2mask=False)'
    ]


def _comparison_warnings(train: CocoReport, val: CocoReport) -> 'list[str]':
    rows = list(zip(train.classes, train.counts, val.counts))
    found = [
        ('classes appear in train only', [name for name, n, m in rows if n and not m]),
        ('classes appear in val only', [name for name, n, m in rows if m and not n]),
        ('classes have no annotation at all', [name for name, n, m in rows if not n and not m]),
        (
            'images are both in train and val, so the metrics mean little',
            sorted(_image_paths(train) & _image_paths(val)),
        ),
    ]
    return [f'{len(names)} {what}: {_few(names)}' for what, names in found if names]


def _few(names: 'list[str]') -> str:
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')


def _image_paths(report: CocoReport) -> 'set[str]':
    folder = os.path.realpath(report.img_dir)
    return {os.path.join(folder, name) for name in report.file_names}


# ---- The parts of the config


def _classes_of_base(model: dict) -> int:
    """Return the number of classes of the base's data set: that of its (first) box head."""
    found = list(head_classes(model))
    if not found:
        raise ValueError('the base model has no head with num_classes: take a detector as base')
    return next((value for key, value in found if 'bbox_head' in key.split('.')), found[0][1])


def _model_override(model: dict, old: int) -> dict:
    """Return the nested dict that sets each ``num_classes`` of value ``old`` in the heads."""

    def with_classes(path: KeyPath, value: Any) -> Any:
        return Code('num_classes') if path[-1] == 'num_classes' and value == old else value

    override: dict = {}
    for path, value in walk(model, enter=lambda path, _: not {*path} & {*NOT_HEADS}):
        if path[-1:] == ('num_classes',) and value == old:
            # A list in a config replaces the base's as a whole, e.g. the heads of a cascade.
            *parents, key = takewhile(lambda key: isinstance(key, str), path)
            node = override
            for parent in parents:
                node = node.setdefault(parent, {})
            node[key] = rewrite(value_at(model, (*parents, key)), with_classes, (*parents, key))
    return override


def _dataset_override(dataset: dict, code: str, values: dict, fallback: dict) -> dict:
    """Return what turns the base's ``dataset`` into the user's.

    Args:
        dataset: ``dataset`` of a data loader; wrappers such as ``RepeatDataset`` are kept.
        code: Expression for it in the config that is written.
        values: Settings of the user's data set.
        fallback: Further settings for where the base's are of no use.
    """
    path, first = next(datasets(dataset))
    wrappers = tuple(takewhile(lambda key: key == 'dataset', path))
    if kind(first) == 'CocoDataset' and path == wrappers:
        override = values
    else:
        # Another format or a concatenation: only the pipeline of the base's data set is kept.
        code += ''.join(f'[{key}]' if isinstance(key, int) else f'.{key}' for key in path)
        override = {
            '_delete_': True,
            'type': 'CocoDataset',
            **values,
            **fallback,
            'pipeline': Code(f'{code}.pipeline'),
        }
    for key in wrappers:
        override = {key: override}
    return override


def _filter_and_repeats(dataset: dict) -> 'tuple[dict, int]':
    """Return ``filter_cfg`` of the innermost data set and how often an epoch repeats that."""
    chain = [d for path, d in datasets(dataset, wrappers=True) if {*path} <= {'dataset'}]
    times = math.prod(d['times'] for d in chain if kind(d) == 'RepeatDataset')
    if kind(chain[-1]) == 'CocoDataset':
        return chain[-1].get('filter_cfg') or {}, times
    return {'filter_empty_gt': True}, times


def _coco_prefix(evaluator: Any) -> Optional[str]:
    """Return what a metric that reads COCO files puts before its numbers; ``None`` for others."""
    if kind(evaluator) == 'CocoMetric':
        return evaluator.get('prefix') or 'coco'
    # MMDetection's metric of this name reads no annotation file.
    if kind(evaluator) == 'VOCMetric' and evaluator['type'].startswith('mmws.'):
        return evaluator.get('prefix') or 'voc'
    return None


def _evaluator_override(evaluator: Any, ann_file: Code, masks: bool) -> dict:
    if _coco_prefix(evaluator) is not None:
        return {'ann_file': ann_file}
    metric = ['bbox', 'segm'] if masks else ['bbox']
    return {'_delete_': True, 'type': 'CocoMetric', 'metric': metric, 'ann_file': ann_file}


def _scaled(scheduler: dict, factor: float) -> dict:
    """Return a parameter scheduler with its times multiplied by ``factor``."""
    scaled = dict(scheduler)
    for key in ('begin', 'end', 'T_max'):
        if isinstance(scheduler.get(key), int):
            scaled[key] = round(scheduler[key] * factor)
    if 'milestones' in scheduler:
        scaled['milestones'] = [max(1, round(m * factor)) for m in scheduler['milestones']]
    return scaled


def _with_end(warmup: dict, end: int) -> dict:
    # Below 2 iterations LinearLR never leaves its start factor.
    return {**warmup, 'end': max(2, end)}


@dataclass
class _Schedule:
    """Length of the training and what follows from it; counts ``unit``."""

    unit: str  # 'epochs' or 'iters'
    base_total: int
    total: int
    val_interval: int
    schedulers: 'list[dict]'


def _schedule(
    cfg: dict, images: int, images_per_gpu: int, epochs: Optional[int], iters: Optional[int]
) -> _Schedule:
    unit = 'iters' if 'max_iters' in cfg['train_cfg'] else 'epochs'
    base_total = cfg['train_cfg'].get(f'max_{unit}')
    if not base_total:
        raise ValueError('the base has neither train_cfg.max_epochs nor train_cfg.max_iters')
    if iters and unit == 'epochs':
        raise ValueError('--iters is for a base that counts iterations: give --epochs')

    steps_per_epoch = math.ceil(images / images_per_gpu)
    if unit == 'epochs':
        total = epochs or epochs_for(images, base_total)
    else:
        total = epochs * steps_per_epoch if epochs else iters or base_total

    schedulers = []
    for scheduler in _as_list(cfg.get('param_scheduler') or []):
        by_epoch = scheduler.get('by_epoch', True)
        if by_epoch == (unit == 'epochs'):
            scheduler = _scaled(scheduler, total / base_total)
        if not by_epoch and scheduler.get('begin') == 0 and 'end' in scheduler:
            tenth = total * steps_per_epoch // 10 if unit == 'epochs' else scheduler['end']
            scheduler = _with_end(scheduler, min(scheduler['end'], tenth))
        schedulers.append(scheduler)

    val_interval = math.ceil(total / MAX_EVALUATIONS)
    if total == base_total:
        val_interval = max(val_interval, cfg['train_cfg'].get('val_interval', 1))
    return _Schedule(unit, base_total, total, val_interval, schedulers)


def _data_paths(train: CocoReport, val: CocoReport) -> 'tuple[str, list[str]]':
    """Return ``data_root`` and, relative to it, train file, train images, val file, val images."""
    files = [train.path, val.path]
    folders = [train.img_dir, val.img_dir]
    root = os.path.commonpath(
        [os.path.abspath(path) for path in [*map(os.path.dirname, files), *folders]]
    )
    inside = [os.path.relpath(path, root) for path in (files[0], folders[0], files[1], folders[1])]
    # MMDetection's way: relative to where training is started, for data under it.
    shown = os.path.relpath(root) if is_under(root, os.getcwd()) else root
    return os.path.join(shown, ''), ['' if path == '.' else path for path in inside]


# ---- Writing


def _command(options: 'dict[str, Any]') -> str:
    """Return the command line with those options that have a value."""
    lines = [
        ' '.join([option, *(shlex.quote(str(value)) for value in _as_list(values))])
        for option, values in options.items()
        if values is not None
    ]
    return ' \\\n        '.join(['python tools/new_config.py', *lines])


def _config_text(
    cfg: dict,
    base: str,
    command: str,
    train: CocoReport,
    val: CocoReport,
    masks: bool,
    images_per_gpu: int,
    epochs: Optional[int],
    iters: Optional[int],
) -> 'tuple[str, str]':
    """Return the text of the config and the length of its training."""
    model = cfg['model']
    override = _model_override(model, _classes_of_base(model))
    data, images = _data_section(cfg, train, val, images_per_gpu, masks)
    schedule = _schedule(cfg, images, images_per_gpu, epochs, iters)
    metainfo = {'classes': Code('classes'), 'palette': make_palette(len(train.classes))}
    base_batch_size = (cfg.get('auto_scale_lr') or {}).get('base_batch_size', 16)
    name = Path(base.rpartition('::')[2]).stem
    parts = [
        f'r"""{name} for data of your own, {train.images} training images.',
        '',
        'Made by',
        '',
        f'    {command}',
        '',
        'and meant to be edited.',
        '"""',
        '',
        f'_base_ = {base!r}',
        '',
        "# In the order of 'categories' in the annotation files: MMDetection numbers them by it.",
        assign('classes', train.classes),
        assign('metainfo', metainfo),
        'num_classes = len(classes)',
        '# Every head counts the classes for itself.',
        assign('model', override),
        '',
        data,
        '',
        _schedule_section(cfg, schedule, images, given=bool(epochs or iters)),
        '',
        f"# The base's learning rate is for {base_batch_size} images a step. It scales by itself\n"
        '# to the images you take: GPUs x images per GPU.',
        assign('auto_scale_lr', {'enable': True, 'base_batch_size': base_batch_size}),
        '',
        '# Keeps the last three checkpoints and the best one; the interval is that of validation.',
        assign('default_hooks', {'checkpoint': _checkpoint_hook(cfg, schedule, masks)}),
        '',
    ]
    return '\n'.join(parts), f'{schedule.total} {schedule.unit}'


def _data_section(
    cfg: dict, train: CocoReport, val: CocoReport, images_per_gpu: int, masks: bool
) -> 'tuple[str, int]':
    """Return the text that sets the data and the number of images in an epoch."""
    data_root, (train_file, train_dir, val_file, val_dir) = _data_paths(train, val)

    def values(ann_file: str, img_dir: str) -> dict:
        return {
            'type': 'CocoDataset',
            'data_root': Code('data_root'),
            'metainfo': Code('metainfo'),
            'ann_file': ann_file,
            'data_prefix': {'img': img_dir},
        }

    filter_cfg, times = _filter_and_repeats(cfg['train_dataloader']['dataset'])
    train_values, note = values(train_file, train_dir), ''
    if train.min_side < filter_cfg.get('min_size', 0):
        # Merged into the base's, so that the rest of it stays.
        train_values['filter_cfg'] = {'min_size': math.floor(train.min_side)}
        note = (
            f'\n# The base skips images with a side below {filter_cfg["min_size"]} pixels; the '
            f'shortest here is {train.min_side}.'
        )
    train_dataset = _dataset_override(
        cfg['train_dataloader']['dataset'],
        '_base_.train_dataloader.dataset',
        train_values,
        {'filter_cfg': filter_cfg},
    )
    lines = [
        '# Relative paths are relative to where training is started.' + note,
        assign('data_root', data_root),
        '# batch_size is per GPU.',
        assign('train_dataloader', {'batch_size': images_per_gpu, 'dataset': train_dataset}),
    ]
    val_values = values(val_file, val_dir)
    val_json = Code(f'data_root + {val_file!r}')
    for split in ('val', 'test'):
        loader, evaluator = cfg.get(f'{split}_dataloader'), cfg.get(f'{split}_evaluator')
        if not loader or not evaluator:
            continue
        if split == 'test' and (loader, evaluator) == (cfg['val_dataloader'], cfg['val_evaluator']):
            lines += ['test_dataloader = val_dataloader', 'test_evaluator = val_evaluator']
            continue
        dataset = _dataset_override(
            loader['dataset'],
            f'_base_.{split}_dataloader.dataset',
            val_values,
            {'test_mode': True},
        )
        lines += [
            assign(f'{split}_dataloader', {'dataset': dataset}),
            assign(f'{split}_evaluator', _evaluator_override(evaluator, val_json, masks)),
        ]
    skips_empty = filter_cfg.get('filter_empty_gt', False)
    images = train.images_with_instances if skips_empty else train.images
    return '\n'.join(lines), images * times


def _schedule_section(cfg: dict, schedule: _Schedule, images: int, given: bool) -> str:
    unit, total, base_total = schedule.unit, schedule.total, schedule.base_total
    if given:
        why = f'{total} {unit} as asked for; the base has {base_total}.'
    elif unit == 'iters':
        why = "The base's number of iterations."
    else:
        why = (
            f'{images} images an epoch: {total} epochs show the detector {total * images:,} images '
            f'(the base has {base_total} epochs).'
        )
    lines = [
        f'# {why}',
        assign('train_cfg', {f'max_{unit}': total, 'val_interval': schedule.val_interval}),
    ]
    if schedule.schedulers and schedule.schedulers != _as_list(cfg['param_scheduler']):
        lines += [
            "# Steps at the same fractions of the training as the base's; warm-up by iterations.",
            assign('param_scheduler', schedule.schedulers),
        ]
    return '\n'.join(lines)


def _checkpoint_hook(cfg: dict, schedule: _Schedule, masks: bool) -> dict:
    evaluator = cfg['val_evaluator']
    prefix, metrics = _coco_prefix(evaluator), ['segm'] if masks else ['bbox']
    if prefix is not None:
        metrics = _as_list(evaluator['metric'])
    best = 'segm' if 'segm' in metrics else 'bbox'
    return {
        'interval': schedule.val_interval,
        'max_keep_ckpts': 3,
        'save_best': f'{prefix or "coco"}/{best}_mAP',
    }


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]
