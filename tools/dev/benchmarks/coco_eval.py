"""Time COCO evaluation by mmws.CocoMetric, by pycocotools, and by MMDetection's metric.

    python tools/dev/benchmarks/coco_eval.py

makes random ground truth and detections of COCO's size (5,000 images of 640x480 with 80 classes,
about 7 objects and 100 detections with masks each) and prints how long each contestant takes from
predictions to the numbers, boxes and masks together, and how far the numbers lie apart:

- ``mmdet.CocoMetric``: JSON files and pycocotools; its numbers are rounded to 3 digits;
- ``pycocotools``: the same library without the files, as mmws.CocoMetric falls back to it;
- ``mmws.CocoMetric``: faster-coco-eval.

CPU seconds are the better measure on a machine that others use too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import cv2
import mmdet.evaluation
import numpy as np
from mmengine.logging import MMLogger
from pycocotools import mask as mask_utils
from tqdm import tqdm

import mmws
from mmws.data.rle import encode_masks
from mmws.evaluation import coco_eval, coco_metric

HEIGHT, WIDTH, CLASSES = 480, 640, 80
SHAPES, VARIANTS = 200, 5  # number of outlines, and of shifted and scaled copies of each
ITEMS = coco_metric.ITEMS


def make_shapes(rng: np.random.Generator) -> tuple[list[dict], np.ndarray]:
    """Return RLEs and boxes, (N, 4) as x, y, w, h: the variants of a shape follow each other."""
    masks = np.zeros((SHAPES * VARIANTS, HEIGHT, WIDTH), np.uint8)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for shape in range(SHAPES):
        centre = rng.uniform(0.1, 0.9, 2) * (WIDTH, HEIGHT)
        radii = np.exp(rng.uniform(np.log(8), np.log(150), 2))
        outline = unit * radii * (1 + 0.25 * rng.normal(size=(24, 1)))
        for variant in range(VARIANTS):
            scale = 1 + 0.05 * variant * rng.normal()
            shift = 0.06 * variant * radii * rng.normal(size=2)
            points = np.rint(centre + shift + scale * outline).astype(np.int32)
            cv2.fillPoly(masks[shape * VARIANTS + variant], [points], 1)
    rles = encode_masks(masks.transpose(1, 2, 0))
    return rles, mask_utils.toBbox(rles)


def make_data(images: int, detections: int, seed: int) -> tuple[dict, list[dict]]:
    """Return COCO annotations and predictions; half of these are near an object."""
    rng = np.random.default_rng(seed)
    rles, boxes = make_shapes(rng)
    corners = boxes + np.pad(boxes[:, :2], ((0, 0), (2, 0)))
    data = {
        'images': [],
        'annotations': [],
        'categories': [{'id': i + 1, 'name': f'class {i}'} for i in range(CLASSES)],
    }
    predictions = []
    for image_id in tqdm(range(1, images + 1), desc='making data', unit='image', disable=None):
        data['images'].append(
            {'id': image_id, 'width': WIDTH, 'height': HEIGHT, 'file_name': f'{image_id}.jpg'}
        )
        shapes = rng.integers(SHAPES, size=rng.integers(1, 14))
        labels = rng.integers(CLASSES, size=len(shapes))
        for shape, label in zip(shapes * VARIANTS, labels):
            data['annotations'].append(
                {
                    'id': len(data['annotations']) + 1,
                    'image_id': image_id,
                    'category_id': int(label) + 1,
                    'bbox': boxes[shape].tolist(),
                    'area': float(mask_utils.area(rles[shape])),
                    'iscrowd': int(rng.random() < 0.01),
                    'segmentation': rles[shape],
                }
            )
        near = rng.random(detections) < 0.5
        of = rng.integers(len(shapes), size=detections)
        right = near & (rng.random(detections) < 0.8)
        chosen = np.where(near, shapes[of], rng.integers(SHAPES, size=detections)) * VARIANTS
        chosen += rng.integers(VARIANTS, size=detections)
        predictions.append(
            {
                'img_id': image_id,
                'bboxes': corners[chosen].astype(np.float32),
                'scores': rng.random(detections, dtype=np.float32),
                'labels': np.where(right, labels[of], rng.integers(CLASSES, size=detections)),
                'masks': [rles[i] for i in chosen],
            }
        )
    return data, predictions


@contextlib.contextmanager
def recorded_stats() -> Iterator[list]:
    """Collect the unrounded twelve numbers of each evaluation by mmws."""
    found = []

    def evaluate(*args: Any, **kwargs: Any) -> coco_eval.CocoResult:
        evaluation = coco_eval.evaluate_coco(*args, **kwargs)
        found.append(evaluation.stats)
        return evaluation

    with mock.patch.object(coco_metric, 'evaluate_coco', evaluate):
        yield found


def run(kind: type, path: str, predictions: list[dict]) -> tuple[float, float, np.ndarray]:
    """Return seconds, CPU seconds, and the twelve numbers of boxes and of masks, (2, 12)."""
    with contextlib.redirect_stdout(io.StringIO()), recorded_stats() as stats:
        metric = kind(ann_file=path, metric=['bbox', 'segm'], metric_items=ITEMS)
        metric.dataset_meta = {'classes': [f'class {i}' for i in range(CLASSES)]}
        results: list[tuple[dict, dict]] = [({}, prediction) for prediction in predictions]
        start = np.array([time.perf_counter(), time.process_time()])
        metrics = metric.compute_metrics(results)
        seconds, cpu_seconds = [time.perf_counter(), time.process_time()] - start
    return seconds, cpu_seconds, np.array(stats or list(metrics.values())).reshape(2, 12)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=int, default=5000)
    parser.add_argument('--detections', type=int, default=100, help='per image')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--skip-mmdet', action='store_true', help='compare the libraries only')
    args = parser.parse_args()
    if not coco_eval.has_faster_coco_eval():
        parser.error('faster-coco-eval is not installed: run `pip install "mmws[eval]"`')

    MMLogger.get_current_instance().setLevel(logging.WARNING)
    data, predictions = make_data(args.images, args.detections, args.seed)
    found: dict[str, tuple[float, float, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'annotations.json')
        with open(path, 'w') as file:
            json.dump(data, file)
        found['mmws.CocoMetric'] = run(mmws.CocoMetric, path, predictions)
        with mock.patch.object(coco_eval, 'has_faster_coco_eval', return_value=False):
            found['pycocotools'] = run(mmws.CocoMetric, path, predictions)
        if not args.skip_mmdet:
            found['mmdet.CocoMetric'] = run(mmdet.evaluation.CocoMetric, path, predictions)

    seconds, cpu_seconds, stats = found['mmws.CocoMetric']
    print(f'{args.images} images x {args.detections} detections, boxes and masks\n')
    print('| contestant | seconds | times mmws | CPU seconds | times mmws | largest difference |')
    print('| --- | ---: | ---: | ---: | ---: | ---: |')
    for name, (its_seconds, its_cpu_seconds, its_stats) in found.items():
        print(
            f'| {name} | {its_seconds:.1f} | {its_seconds / seconds:.1f} '
            f'| {its_cpu_seconds:.1f} | {its_cpu_seconds / cpu_seconds:.1f} '
            f'| {np.abs(its_stats - stats).max():.1e} |'
        )


if __name__ == '__main__':
    main()
