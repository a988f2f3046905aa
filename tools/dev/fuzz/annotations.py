"""Annotation files: what is accepted must load, train and evaluate."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .mutators import Input, damage_file, mutate
from .settings import coco_data, flat_config, small_settings, write_coco


def coco(folder: Path, numbers: random.Random) -> Input:
    """Annotation files in COCO format, checked as before each training."""
    from mmws.config import load_config
    from mmws.data.preflight import check_data

    data = coco_data()
    fields: tuple[str, ...] = ()
    which = numbers.random()
    if which < 0.5:
        data, fields = mutate(data, numbers)
    elif which < 0.85:
        data, fields = with_fault(data, numbers)
    path = write_coco(folder, data)
    if which >= 0.95:
        damage_file(numbers.choice(sorted(folder.glob('*.png'))), numbers)
    elif which >= 0.85:
        damage_file(path, numbers)

    def read() -> None:
        cfg = load_config(flat_config())
        cfg.merge_from_dict(small_settings(folder))
        check_data(cfg)
        use(cfg)

    return Input(read, (path.name,), fields)


# Faults that were seen in files of others, by field: values for one entry.
_FAULTS: dict[str, dict[str, list[Any]]] = {
    'annotations': {
        'id': [0, '1', 4, None],
        'image_id': ['1', 99, 1.0, None],
        'category_id': ['1', 0, 99, None],
        'bbox': [[20, 20, 30, 30], [1, 1, 0, 0], [-50, -50, 9, 9], [5, 5, math.nan, 5],
                 [0, 0, 1e9, 1e9], ['1', '1', '5', '5'], [1, 1, 5], None],
        'area': [0, None, -1, math.nan, '9'],
        'iscrowd': [1, '0', '1', None, 2],
        'segmentation': [
            None, [], [[]], [None], [[None] * 6], [[1, 1, 5, 5]], [[1, 1, 5, 1, 5, 5, 1]],
            [1, 1, 5, 1, 5, 5], [[[1, 1], [5, 1], [5, 5]]], [[1, 1, math.nan, 1, 5, 5]],
            [[1, 1, math.inf, 1, 5, 5]], [[1, 1, 1e9, 1, 5, 5]], [['1', '1', '5', '1', '5', '5']],
            [[1, 1, 10**400, 1, 5, 5]], '', {}, {'size': [32, 32], 'counts': 'garbage'},
            {'size': [32, 32], 'counts': '\x7f\x7f'}, {'size': [32, 32], 'counts': [-1, 1025]},
            {'size': [16, 16], 'counts': [0, 256]}, {'size': [32], 'counts': 'Q1:f00ol0'},
            {'size': [10**9, 10**9], 'counts': [10**18]}, {'size': [32, 32]},
        ],
    },
    'images': {
        'id': ['1', 2, None],
        'file_name': ['2.png', '1.PNG', 'x\\1.png', '/data/1.png', '1.jpg', '', None, 'a.json'],
        'width': [0, 31, '32', None, 1e9, 10**400],
        'height': [0, 33, 32.5, None, -32],
    },
    'categories': {
        'id': [2, '1', 0, None],
        'name': ['{{ HOME }}', '"""', "\'", '{{$HOME:x}}', 'b', '', None, 'a\nb', '\udcff'],
    },
}  # fmt: skip


def with_fault(data: dict[str, Any], numbers: random.Random) -> tuple[Any, tuple[str, ...]]:
    """Put one of the faults of :data:`_FAULTS` into one entry of a list, or into all."""
    name = numbers.choice(list(_FAULTS))
    if numbers.random() < 0.05:
        return {**data, name: numbers.choice([[], None, {}])}, (name,)
    field = numbers.choice(list(_FAULTS[name]))
    value = numbers.choice(_FAULTS[name][field])
    entries = data[name] if numbers.random() < 0.3 else [numbers.choice(data[name])]
    for entry in entries:
        if value is None and numbers.random() < 0.5:
            del entry[field]
        else:
            entry[field] = value
    return data, (field,)


def use(cfg: Any) -> None:
    """Load every sample of a config's training data, and evaluate perfect predictions."""
    from mmdet.registry import DATASETS, METRICS
    from mmengine.registry import init_default_scope
    from pycocotools import mask as mask_utils

    init_default_scope('mmdet')
    train = DATASETS.build(cfg.train_dataloader.dataset)
    for index in range(len(train)):
        train[index]
    if cfg.get('val_evaluator') is None:
        return
    val = DATASETS.build(cfg.val_dataloader.dataset)
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = val.metainfo
    for index in range(len(val)):
        sample = val[index]['data_samples']
        truth = sample.gt_instances
        prediction = dict(
            bboxes=truth.bboxes.tensor if hasattr(truth.bboxes, 'tensor') else truth.bboxes,
            labels=truth.labels,
            scores=truth.bboxes.new_ones(len(truth.labels))
            if not hasattr(truth.bboxes, 'tensor')
            else truth.bboxes.tensor.new_ones(len(truth.labels)),
        )
        if 'masks' in truth:
            prediction['masks'] = [
                mask_utils.encode(np.asfortranarray(mask)) for mask in truth.masks.masks
            ]
        metric.process({}, [dict(sample.metainfo, pred_instances=prediction)])
    metric.evaluate(len(val))


# ---- other formats

_Made = tuple[tuple[str, ...], tuple[str, ...]]  # names of files, and of the changed fields


def _draw(folder: Path) -> list[str]:
    names = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), np.uint8)
        names.append(f'{number}.png')
        Image.fromarray(pixels).save(folder / names[-1])
    return names


def _yolo(root: Path, numbers: random.Random) -> _Made:
    (root / 'images').mkdir(parents=True)
    (root / 'labels').mkdir()
    boxes = numbers.random() < 0.5
    for name in _draw(root / 'images'):
        rows: list[Any] = [
            [label, 0.5, 0.5, 0.25, 0.5] if boxes else [label, 0.1, 0.1, 0.9, 0.1, 0.9, 0.9]
            for label in (0, 1)
        ]
        if name == '1.png':
            rows = mutate({'row': rows}, numbers)[0].get('row', [])
        rows = rows if isinstance(rows, list) else [rows]
        lines = [' '.join(map(str, row)) if isinstance(row, list) else str(row) for row in rows]
        (root / 'labels' / f'{Path(name).stem}.txt').write_text('\n'.join(lines), 'utf-8')
    fields: tuple[str, ...] = ('line 1', 'line 2', '1.txt:1', '1.txt:2')
    about: Any = {'path': '.', 'train': 'images', 'names': {0: 'a', 1: 'b'}}
    if numbers.random() < 0.3:
        about, fields = mutate(about, numbers)
        # A class without a name is told of by the line of the labels that has it.
        fields = (*fields, 'line 1', 'line 2')
    (root / 'data.yaml').write_text(json.dumps(about, default=str))
    return ('1.txt', 'data.yaml', str(root)), fields


def _labelme(root: Path, numbers: random.Random) -> _Made:
    root.mkdir()
    boxes = numbers.random() < 0.3
    for name in _draw(root):
        shapes: list[dict[str, Any]] = [
            {
                'label': 'a',
                'points': [[1, 1], [20, 1], [20, 20]],
                'shape_type': 'polygon',
                'group_id': None,
                'flags': {},
            },
            {'label': 'b', 'points': [[9, 9], [9, 12]], 'shape_type': 'circle'},
        ]
        if boxes:
            shapes = [{'label': x, 'points': [[1, 1], [20, 10]], 'shape_type': 'rectangle'}
                      for x in 'ab']  # fmt: skip
        content: Any = {'version': '5', 'flags': {}, 'shapes': shapes, 'imagePath': name,
                        'imageHeight': 24, 'imageWidth': 32, 'imageData': None}  # fmt: skip
        if name == '1.png':
            content, fields = mutate(content, numbers)
        (root / f'{Path(name).stem}.json').write_text(json.dumps(content, default=str))
    return ('1.json', '1.png', str(root)), fields


def _xml_value(numbers: random.Random, text: str) -> str:
    """Return other text for a place of an XML file, often a number."""
    return numbers.choice(
        ['', 'nan', 'inf', '-1', '1e400', '9' * 400, 'a', '1;2', ' ', '&#233;', '0', '1.5', '1e9',
         text + text, '{{ HOME }}', '&quot;&quot;&quot;', '../x', '1,1;', '1,1;2,2;nan,3']
    )  # fmt: skip


def _mutated_xml(text: str, numbers: random.Random) -> tuple[str, tuple[str, ...]]:
    """Change the text of a few elements or attributes, or leave an element out."""
    fields = []
    for _ in range(numbers.choice([1, 1, 2])):
        places = list(re.finditer(r'(?<=>)[^<>\n]+(?=<)|(?<==")[^"]*(?=")', text))
        place = numbers.choice(places)
        fields.append(re.findall(r'(\w+)(?:="|>)$', text[: place.start()])[0])
        text = text[: place.start()] + _xml_value(numbers, place[0]) + text[place.end() :]
    if numbers.random() < 0.3:
        elements = list(re.finditer(r'<(\w+)>[^<>]*</\1>|<\w+ [^<>]*/>', text))
        gone = numbers.choice(elements)
        fields.append(re.findall(r'\w+', gone[0])[0])
        text = text[: gone.start()] + text[gone.end() :]
    return text, tuple(fields)


def _voc(root: Path, numbers: random.Random) -> _Made:
    (root / 'JPEGImages').mkdir(parents=True)
    (root / 'Annotations').mkdir()
    for name in _draw(root / 'JPEGImages'):
        stem = Path(name).stem
        Image.open(root / 'JPEGImages' / name).save(root / 'JPEGImages' / f'{stem}.jpg')
        (root / 'JPEGImages' / name).unlink()
        objects = ''.join(
            f'<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>2</xmin>'
            '<ymin>3</ymin><xmax>20</xmax><ymax>21</ymax></bndbox></object>\n'
            for label in 'ab'
        )
        text = (
            f'<annotation><filename>{stem}.jpg</filename>\n<size><width>32</width>'
            f'<height>24</height><depth>3</depth></size>\n{objects}</annotation>'
        )
        if stem == '1':
            text, fields = _mutated_xml(text, numbers)
        (root / 'Annotations' / f'{stem}.xml').write_text(text, 'utf-8')
    return ('1.xml', '1.jpg', str(root)), fields


def _cvat(root: Path, numbers: random.Random) -> _Made:
    (root / 'images').mkdir(parents=True)
    items = []
    for i, name in enumerate(_draw(root / 'images')):
        item = (
            f'<image id="{i}" name="{name}" width="32" height="24">\n'
            '<box label="a" xtl="1" ytl="2" xbr="20" ybr="21" occluded="0" rotation="30"/>\n'
            '<polygon label="b" points="1.0,1.0;20.0,1.0;20.0,20.0" group_id="1"/>\n'
            '<ellipse label="b" cx="9" cy="9" rx="4" ry="5"/>\n'
            '<mask label="a" rle="2, 4, 2" left="3" top="4" width="4" height="2"/>\n</image>'
        )
        if i == 1:
            item, fields = _mutated_xml(item, numbers)
        items.append(item)
    (root / 'annotations.xml').write_text(
        '<annotations><version>1.1</version>\n' + '\n'.join(items) + '</annotations>', 'utf-8'
    )
    return ('annotations.xml', '1.png', str(root)), fields


_FORMATS: tuple[Callable[[Path, random.Random], _Made], ...] = (
    _yolo, _labelme, _voc, _cvat,
)  # fmt: skip


def own_data(folder: Path, numbers: random.Random) -> Input:
    """Data sets of YOLO, LabelMe, VOC, CVAT and COCO, made into a config."""
    from mmws.config import load_config
    from mmws.data.new_config import new_config

    root = folder / 'data'
    kind = numbers.randrange(len(_FORMATS) + 1)
    if kind == len(_FORMATS):
        root.mkdir()
        mutated = numbers.random() < 0.5
        data, fields = (mutate if mutated else with_fault)(coco_data(), numbers)
        write_coco(root, data)
        names: tuple[str, ...] = ('a.json', str(root))
    else:
        names, fields = _FORMATS[kind](root, numbers)
        if numbers.random() < 0.2:
            file = numbers.choice(sorted(p for p in root.rglob('*') if p.suffix not in ('.png',)
                                         and p.is_file()))  # fmt: skip
            damage_file(file, numbers)
            names, fields = (*names, file.name), ()
    out = folder / 'out' / 'mine.py'
    names = (*names, 'mine_data')  # where a converted or split data set is written

    def read() -> None:
        new_config(data=root, out=out, start='none', fix=numbers.random() < 0.5)
        use(load_config(out))

    return Input(read, names, fields)
