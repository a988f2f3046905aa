"""Random ground truth and detections, degenerate ones among them."""

import contextlib
import copy
import io
import json

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from pycocotools import mask as mask_utils

from mmws.data.rle import encode_masks


def random_mask(rng, height, width):
    """Return a mask of shape (H, W), uint8: a rectangle, empty at times, with holes at times."""
    mask = np.zeros((height, width), np.uint8)
    top, bottom = np.sort(rng.integers(0, height + 1, 2))
    left, right = np.sort(rng.integers(0, width + 1, 2))
    mask[top:bottom, left:right] = 1
    return mask & (rng.random(mask.shape) < (0.8 if rng.random() < 0.3 else 1))


def random_case(seed, images=4, classes=3, crowds=0.25, ties=0.5, objects=5, detections=12):
    """Return COCO annotations and predictions as MMDetection's metric keeps them.

    Category ids are in no order, boxes and masks may be empty, and scores repeat with the
    probability ``ties``.
    """
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(20, 160, 2))
    categories = [
        {'id': int(i), 'name': f'class{i}'} for i in rng.choice(50, classes, replace=False) + 1
    ]
    data = {'images': [], 'annotations': [], 'categories': categories}
    predictions = []
    for image_id in rng.choice(1000, images, replace=False).tolist():
        data['images'].append(
            {'id': image_id, 'height': height, 'width': width, 'file_name': f'{image_id}.jpg'}
        )
        masks = [random_mask(rng, height, width) for _ in range(rng.integers(0, objects + 1))]
        for mask in masks:
            rle = encode_masks(mask[..., None])[0]
            data['annotations'].append(
                {
                    'id': len(data['annotations']) + 1,
                    'image_id': image_id,
                    'category_id': categories[rng.integers(classes)]['id'],
                    'segmentation': rle,
                    'bbox': mask_utils.toBbox(rle).tolist(),
                    'area': float(mask_utils.area(rle)),
                    'iscrowd': int(rng.random() < crowds),
                }
            )
        found = []
        for _ in range(rng.integers(0, detections + 1)):
            near = masks and rng.random() < 0.6
            mask = masks[rng.integers(len(masks))] if near else random_mask(rng, height, width)
            if rng.random() < 0.5:
                mask = np.roll(mask, rng.integers(-3, 4), rng.integers(2))
            found.append(encode_masks(mask[..., None])[0])
        predictions.append(prediction(rng, image_id, found, classes, ties))
    return data, predictions


def prediction(rng, image_id, masks, classes, ties):
    count = len(masks)
    boxes = np.array([mask_utils.toBbox(mask) for mask in masks]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.where(rng.random(count) < ties, rng.choice([0, 0.5, 1], count), rng.random(count))
    return {
        'img_id': image_id,
        'bboxes': boxes.astype(np.float32),
        'scores': scores.astype(np.float32),
        'labels': rng.integers(classes, size=count),
        'masks': masks,
    }


def as_coco(data):
    """Return ``data`` as pycocotools reads it from a file."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(data)
        coco.createIndex()
    return coco


def ids_of(data):
    return [category['id'] for category in data['categories']]


def write(data, folder):
    path = folder / 'annotations.json'
    path.write_text(json.dumps(data))
    return str(path)


def build(kind, path, data, **options):
    with contextlib.redirect_stdout(io.StringIO()):
        metric = kind(ann_file=path, metric=['bbox', 'segm'], **options)
    metric.dataset_meta = {'classes': [c['name'] for c in data['categories']]}
    return metric


def compute(metric, predictions):
    """Return what ``metric`` makes of ``predictions``."""
    results = [({}, prediction) for prediction in copy.deepcopy(predictions)]
    with contextlib.redirect_stdout(io.StringIO()):
        return metric.compute_metrics(results)
