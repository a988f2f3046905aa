"""The tasks of a study on data of the user's."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mmws.config import read_config
from mmws.config.code import write_config
from mmws.data.new_config import new_config

from .cell_config import config_path
from .spec import Spec

_FOLDERS = '''r"""Classification of the images in {data}."""

_base_ = {base!r}

train_dataloader = dict(dataset=dict(data_root={train!r}))
val_dataloader = dict(dataset=dict(data_root={val!r}))
model = dict(num_classes={classes})
'''


def with_data(spec: Spec, data: str | Path, folder: str | Path) -> Spec:
    """Return a study whose tasks train on other data.

    A task of classification takes a folder ``train`` and a folder ``val`` or ``test``, each with a
    folder of images for each class. A task of detection takes what
    :func:`mmws.data.new_config.new_config` recognizes: COCO, VOC, YOLO, LabelMe or CVAT.

    Args:
        spec: A study.
        data: A file or a folder.
        folder: Where the configs of the tasks are written, with what is converted of the data.

    Raises:
        FileNotFoundError: if the data are missing.
        ValueError: if a form brings a config of its own, which names its own data; or if the data
            do not suit a task.
    """
    own = [name for name, form in spec.forms.items() if form.config]
    if own:
        raise ValueError(
            f'study {spec.path}: form {own[0]} has a config, so `data` do not reach it'
        )
    data, folder = Path(data), Path(folder)
    tasks = {}
    for name, task in spec.tasks.items():
        base, out = config_path(spec, task.config), folder / f'{name}.py'
        if _reads_folders(base):
            write_config(out, _for_folders(base, data))
        else:
            new_config(data=data, base=base, out=out, start='none', force=True)
        tasks[name] = replace(task, config=str(out.resolve()))
    return replace(spec, tasks=tasks, data=data)


def _reads_folders(config: str) -> bool:
    cfg = read_config(config, 'study')
    return cfg.get('train_dataloader', {}).get('dataset', {}).get('type') == 'mmws.FolderOfImages'


def _for_folders(base: str, data: Path) -> str:
    if not (data / 'train').is_dir():
        raise FileNotFoundError(
            f'{data} has no folder train: a task of classification takes train and val or test, '
            'each with a folder of images for each class'
        )
    val = data / ('val' if (data / 'val').is_dir() else 'test')
    classes = [_classes(data / 'train'), _classes(val)]
    if classes[0] != classes[1]:
        differing = sorted(set(classes[0]) ^ set(classes[1]))
        raise ValueError(f'{data}/train and {val} have other classes: {", ".join(differing[:3])}')
    return _FOLDERS.format(
        data=data.resolve().name.replace('"', ''),
        base=base,
        train=str(data.resolve() / 'train'),
        val=str(val.resolve()),
        classes=len(classes[0]),
    )


def _classes(folder: Path) -> list[str]:
    found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not found:
        raise ValueError(f'{folder} has no folder of images for each class')
    return found
