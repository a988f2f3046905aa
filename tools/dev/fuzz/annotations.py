"""Annotation files: what is accepted must load, train and evaluate."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .mutators import Input, damage_file, mutate
from .settings import CONFIG, coco_data, small_settings, write_coco


def coco(folder: Path, numbers: random.Random) -> Input:
    """Annotation files in COCO format, checked as before each training."""
    from mmws.config import load_config
    from mmws.data.preflight import check_data

    data = coco_data()
    fields: tuple[str, ...] = ()
    if numbers.random() < 0.8:
        data, fields = mutate(data, numbers)
        path = write_coco(folder, data)
    else:
        path = write_coco(folder, data)
        damage_file(path, numbers)

    def read() -> None:
        cfg = load_config(CONFIG)
        cfg.merge_from_dict(small_settings(folder))
        check_data(cfg)
        use(cfg)

    return Input(read, (path.name,), fields)


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


def _draw(folder: Path) -> list[str]:
    names = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), np.uint8)
        names.append(f'{number}.png')
        Image.fromarray(pixels).save(folder / names[-1])
    return names


def _yolo(root: Path, numbers: random.Random) -> tuple[str, ...]:
    (root / 'images').mkdir(parents=True)
    (root / 'labels').mkdir()
    for name in _draw(root / 'images'):
        rows: list[Any] = [[0, 0.5, 0.5, 0.25, 0.5], [1, 0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]
        if name == '1.png':
            rows = mutate({'row': rows}, numbers)[0].get('row', [])
        rows = rows if isinstance(rows, list) else [rows]
        lines = [' '.join(map(str, row)) if isinstance(row, list) else str(row) for row in rows]
        (root / 'labels' / f'{Path(name).stem}.txt').write_text('\n'.join(lines), 'utf-8')
    about: Any = {'path': '.', 'train': 'images', 'names': {0: 'a', 1: 'b'}}
    if numbers.random() < 0.3:
        about, _ = mutate(about, numbers)
    (root / 'data.yaml').write_text(json.dumps(about, default=str))
    return ('1.txt', 'data.yaml', str(root))


def _labelme(root: Path, numbers: random.Random) -> tuple[str, ...]:
    root.mkdir()
    for name in _draw(root):
        shapes = [
            {'label': 'a', 'points': [[1, 1], [20, 1], [20, 20]], 'shape_type': 'polygon',
             'group_id': None, 'flags': {}},
            {'label': 'b', 'points': [[1, 1], [20, 10]], 'shape_type': 'rectangle'},
            {'label': 'b', 'points': [[9, 9], [9, 12]], 'shape_type': 'circle'},
        ]  # fmt: skip
        content: Any = {'version': '5', 'flags': {}, 'shapes': shapes, 'imagePath': name,
                        'imageHeight': 24, 'imageWidth': 32, 'imageData': None}  # fmt: skip
        if name == '1.png':
            content, _ = mutate(content, numbers)
        (root / f'{Path(name).stem}.json').write_text(json.dumps(content, default=str))
    return ('1.json', '1.png', str(root))


def _xml_value(numbers: random.Random, text: str) -> str:
    """Return other text for a place of an XML file, often a number."""
    return numbers.choice(
        ['', 'nan', 'inf', '-1', '1e400', '9' * 400, 'a', '1;2', ' ', '&#233;', '0', '1.5', '1e9',
         text + text, '{{ HOME }}', '&quot;', '../x', '1,1;', '1,1;2,2;nan,3']
    )  # fmt: skip


def _mutated_xml(text: str, numbers: random.Random) -> str:
    """Change the text of a few elements or attributes, or leave an element out."""
    import re

    for _ in range(numbers.choice([1, 1, 2])):
        places = list(re.finditer(r'(?<=>)[^<>\n]+(?=<)|(?<==")[^"]*(?=")', text))
        place = numbers.choice(places)
        text = text[: place.start()] + _xml_value(numbers, place[0]) + text[place.end() :]
    if numbers.random() < 0.3:
        elements = list(re.finditer(r'<(\w+)>[^<>]*</\1>|<\w+ [^<>]*/>', text))
        gone = numbers.choice(elements)
        text = text[: gone.start()] + text[gone.end() :]
    return text


def _voc(root: Path, numbers: random.Random) -> tuple[str, ...]:
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
            text = _mutated_xml(text, numbers)
        (root / 'Annotations' / f'{stem}.xml').write_text(text, 'utf-8')
    return ('1.xml', '1.jpg', str(root))


def _cvat(root: Path, numbers: random.Random) -> tuple[str, ...]:
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
        items.append(_mutated_xml(item, numbers) if i == 1 else item)
    (root / 'annotations.xml').write_text(
        '<annotations><version>1.1</version>\n' + '\n'.join(items) + '</annotations>', 'utf-8'
    )
    return ('annotations.xml', '1.png', str(root))


_FORMATS: tuple[Callable[[Path, random.Random], tuple[str, ...]], ...] = (
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
        write_coco(root, mutate(coco_data(), numbers)[0])
        names: tuple[str, ...] = ('a.json', str(root))
    else:
        names = _FORMATS[kind](root, numbers)
        if numbers.random() < 0.2:
            file = numbers.choice(sorted(p for p in root.rglob('*') if p.suffix not in ('.png',)
                                         and p.is_file()))  # fmt: skip
            damage_file(file, numbers)
            names = (*names, file.name)
    out = folder / 'out' / 'mine.py'
    names = (*names, 'mine_data')  # where a converted or split data set is written

    def read() -> None:
        new_config(data=root, out=out, start='none', fix=numbers.random() < 0.5)
        use(load_config(out))

    return Input(read, names)
