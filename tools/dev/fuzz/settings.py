"""Trainings of one step, with a mutated setting or from a mutated checkpoint."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import random
import re
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image

from .mutators import PICKLED_VALUES, TEXT_VALUES, Input, damage_file, mutate

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / 'configs/mask_rcnn_r18_gnws_narrow.py'
# What these hold is a matter of the model's own code, or would be read from elsewhere.
_LEFT_ALONE = ('custom_imports', 'launcher', 'resume')


@functools.cache
def flat_config() -> Path:
    """Return a config without a base, which is read faster."""
    from mmws.config import load_config

    path = Path(tempfile.mkdtemp(prefix='fuzz_config_'), 'flat.py')
    load_config(CONFIG).dump(path)
    return path


@functools.cache
def small_config() -> Path:
    """Return the config of a training of a very narrow model on two images, beside its data."""
    from mmws.config import load_config

    folder = flat_config().parent / 'small'
    folder.mkdir()
    write_coco(folder, coco_data())
    cfg = load_config(CONFIG)
    cfg.merge_from_dict(small_settings(folder))
    cfg.dump(folder / 'small.py')
    return folder / 'small.py'


def small_settings(folder: Path) -> dict[str, Any]:
    """Return what makes the narrow config train on the data of :func:`write_coco`."""
    data = dict(
        data_root=f'{folder}/', ann_file='a.json', data_prefix=dict(img=''),
        metainfo=dict(classes=('a', 'b')),
    )  # fmt: skip
    loader = dict(num_workers=0, persistent_workers=False, dataset=data)
    return {
        'model.backbone.base_channels': 4,
        'model.neck': dict(in_channels=[4, 8, 16, 32], out_channels=8, norm_cfg=None),
        'model.rpn_head': dict(in_channels=8, feat_channels=8),
        'model.roi_head.bbox_roi_extractor.out_channels': 8,
        'model.roi_head.bbox_head': dict(
            in_channels=8, conv_out_channels=8, fc_out_channels=8, num_classes=2, norm_cfg=None
        ),
        'model.roi_head.mask_roi_extractor.out_channels': 8,
        'model.roi_head.mask_head': dict(
            in_channels=8, conv_out_channels=8, num_classes=2, norm_cfg=None
        ),
        'train_dataloader': loader,
        'val_dataloader': loader,
        'test_dataloader': loader,
        'val_evaluator.ann_file': f'{folder}/a.json',
        'test_evaluator.ann_file': f'{folder}/a.json',
        'train_cfg.max_iters': 3,
        'train_cfg.val_interval': 10,
    }


def coco_data() -> dict[str, Any]:
    """Return sound annotations, with polygons and both kinds of RLE."""
    masks: list[Any] = [
        [[1, 1, 25, 1, 25, 25, 1, 25]],
        {'size': [32, 32], 'counts': [33, 10, 22, 10, 949]},
        {'size': [32, 32], 'counts': 'Q1:f00ol0'},
    ]
    boxes = [[1, 1, 24, 24], [1, 1, 2, 10], [1, 1, 2, 10]]
    return {
        'info': {'year': 2026},
        'licenses': [],
        'images': [
            {'id': i, 'file_name': f'{i}.png', 'width': 32, 'height': 32} for i in (1, 2)
        ],
        'annotations': [
            {'id': 3 * image + i, 'image_id': image, 'category_id': 1 + i % 2, 'bbox': boxes[i],
             'area': boxes[i][2] * boxes[i][3], 'iscrowd': 0, 'segmentation': masks[i]}
            for image in (1, 2) for i in range(3)
        ],
        'categories': [{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'b', 'supercategory': 'c'}],
    }  # fmt: skip


def write_coco(folder: Path, data: Any) -> Path:
    """Write annotations and two images; return the annotation file."""
    for image in (1, 2):
        pixels = np.random.default_rng(image).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f'{image}.png')
    path = folder / 'a.json'
    path.write_text(json.dumps(data, default=str))
    return path


def train_a_step(*arguments: object) -> None:
    """Run `tools/train.py` in this process, up to the end of its first iteration."""
    import runpy

    from mmengine.hooks import ParamSchedulerHook

    path = str(ROOT / 'tools/train.py')

    class Done(BaseException):
        """One step is done."""

    update = ParamSchedulerHook.after_train_iter

    def stop(*arguments: Any, **options: Any) -> None:
        update(*arguments, **options)
        raise Done

    with (
        mock.patch.object(sys, 'argv', [path, *map(str, arguments)]),
        mock.patch.object(ParamSchedulerHook, 'after_train_iter', stop),
        contextlib.suppress(Done),
    ):
        runpy.run_path(path, run_name='__main__')


def settings(folder: Path, numbers: random.Random) -> Input:
    """A training with a setting of another value or kind, given by option or in the file."""
    from mmws.config import read_config

    cfg = read_config(small_config()).to_dict()
    for key in _LEFT_ALONE:
        cfg.pop(key, None)
    by_option = numbers.random() < 0.5
    # What the parts of a model are built with decides a quarter of all, not nearly all.
    part = numbers.choice([key for key, value in cfg.items() if isinstance(value, (dict, list))])
    changed, fields = mutate({part: cfg[part]}, numbers, (*TEXT_VALUES, {'a', 'b'}, 'ship'))
    work_dir = folder / 'work'
    if by_option and part in changed:
        options = _changed_leaves(cfg[part], changed[part], part)
        if options:
            arguments = [small_config(), '--cfg-options', *options]
        else:
            by_option = False
    if not by_option or part not in changed:
        cfg.pop(part)
        path = folder / 'config.py'
        cfg.update(changed)
        path.write_text(''.join(f'{key} = {_source(value)}\n' for key, value in cfg.items()))
        arguments = [path]
    return Input(
        lambda: train_a_step(*arguments, '--work-dir', work_dir),
        ('error: ', 'usage: '), (part, *fields),
    )  # fmt: skip


def _source(value: Any) -> str:
    return re.sub(r"(?<![\w'.])(inf|nan)\b", r"float('\1')", repr(value))


def _changed_leaves(old: Any, new: Any, key: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            option
            for name in old.keys() & new.keys()
            for option in _changed_leaves(old[name], new[name], f'{key}.{name}')
        ]
    if repr(old) == repr(new):
        return []
    return [f'{key}={str(new).replace(" ", "")}']


@functools.cache
def _trained() -> Path:
    """Return the checkpoint of a training with the small config."""
    import os
    import subprocess

    work_dir = small_config().parent / 'trained'
    subprocess.run(
        [sys.executable, str(ROOT / 'tools/train.py'), str(small_config()), '--work-dir',
         str(work_dir), '--cfg-options', 'default_hooks.checkpoint.interval=2'],
        check=True, capture_output=True, env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )  # fmt: skip
    return work_dir / 'iter_2.pth'


def resumes(folder: Path, numbers: random.Random) -> Input:
    """A training that resumes from, starts with or tests a mutated checkpoint."""
    from mmws.compat import read_checkpoint

    contents = read_checkpoint(_trained())
    work_dir = folder / 'work'
    work_dir.mkdir()
    path = work_dir / 'iter_2.pth'
    key = numbers.choice(list(contents))
    changed, fields = mutate({key: contents[key]}, numbers, (*TEXT_VALUES, *PICKLED_VALUES))
    contents = {name: value for name, value in contents.items() if name != key} | changed
    other = numbers.random()
    if other < 0.06:
        contents, fields = (
            {'state_dict': contents.get('state_dict')},
            (*fields, 'optimizer', 'meta'),
        )
    elif other < 0.12 and isinstance(contents.get('optimizer'), dict):
        contents['optimizer'] = _of_adam(contents['optimizer'])
        fields = (*fields, 'optimizer')
    torch.save(contents, path)
    if numbers.random() < 0.1:
        named = numbers.choice(['', '\0', 'x.pth', str(work_dir), f'{path}\n{path}', 'ä' * 5000])
        (work_dir / 'last_checkpoint').write_text(named)
    if numbers.random() < 0.2:
        damage_file(path, numbers)
        fields = ()
    how: list[object] = numbers.choice(
        [['--resume'], ['--resume'], ['--resume', path], ['--cfg-options', f'load_from={path}']]
    )
    return Input(
        lambda: train_a_step(small_config(), '--work-dir', work_dir, *how), (path.name,), fields
    )


def _of_adam(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of another optimizer for the same parameters."""
    saved = state.get('param_groups')
    saved = saved if isinstance(saved, list) else []
    groups = [dict(group, betas=(0.9, 0.999)) for group in saved if isinstance(group, dict)]
    for group in groups:
        group.pop('momentum', None)
    return {'state': {}, 'param_groups': groups}


def prepare(detectors: bool, train: bool) -> None:
    """Import and make what inputs have in common, once, before processes are forked.

    Args:
        detectors: Whether MMDetection's parts are needed; forking without them is twice as fast.
        train: Whether the checkpoint that :func:`resumes` changes is needed.
    """
    from mmengine.config import utils

    import mmws.data.coco_check
    import mmws.data.download
    import mmws.engine

    # A config with a base in another package reads a hundred metafiles of it, which do not change.
    utils._get_cfg_metainfo = functools.cache(utils._get_cfg_metainfo)
    Config.fromfile(flat_config())
    if detectors:
        from mmdet.utils import register_all_modules

        import mmws.data.new_config  # noqa: F401

        register_all_modules(init_default_scope=False)
        small_config()
    if train:
        _trained()
    gc.freeze()  # A collection in a forked process would copy every page of memory.
