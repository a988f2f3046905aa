"""COCO's twelve numbers, through faster-coco-eval where that gives the same as pycocotools."""

import contextlib
import gc
import io
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmengine.logging import print_log
from pycocotools import mask as mask_utils

# Of a detection in whose image its class does not occur: nothing asks for the shape of its mask.
_NO_MASK = {'size': [1, 1], 'counts': b'01'}


def evaluate_coco(
    ground_truth: COCO,
    predictions: Iterable[dict],
    iou_type: str,
    *,
    cat_ids: Sequence[int],
    max_dets: Sequence[int] = (1, 10, 100),
    iou_thrs: 'Sequence[float] | None' = None,
) -> COCOeval:
    """Evaluate detections as https://cocodataset.org/#detection-eval defines it.

    faster-coco-eval does the work where it is installed and nothing is among the data that it is
    known to count differently or to refuse: ids that are no integers or below 0, annotations
    without ``area`` or ``iscrowd``, numbers that are not finite. pycocotools does it otherwise. The
    numbers are summed up by pycocotools either way.

    Args:
        ground_truth: The annotations.
        predictions: For each image a dict of ``img_id``; ``bboxes``, (N, 4) as x1, y1, x2, y2 in
            pixels; ``scores`` and ``labels``, (N,), all NumPy; and for ``'segm'`` N RLEs in
            ``masks``, with scores of their own in ``mask_scores`` or those of the boxes.
        iou_type: ``'bbox'`` or ``'segm'``.
        cat_ids: Category id of each label.
        max_dets: Three limits of detections per image, in increasing order.
        iou_thrs: IoU thresholds, T; 0.50:0.05:0.95 if ``None``.

    Returns:
        With ``stats``, ``(12,)``, and ``eval``, whose ``precision`` is of shape (T, 101 recalls, K
        classes, 4 area ranges, 3 limits), where -1 stands for a class without ground truth; the
        classes are in the order of ``params.catIds``.

    Raises:
        ValueError: if a prediction is of an image that ``ground_truth`` does not have.
    """
    with _paused_gc(), contextlib.redirect_stdout(io.StringIO()) as said:
        detections = list(_detections(ground_truth, predictions, iou_type, cat_ids))
        results = COCO()
        results.dataset = {
            'images': ground_truth.dataset['images'],
            'categories': ground_truth.dataset['categories'],
            'annotations': detections,
        }
        results.createIndex()
        evaluation = COCOeval(ground_truth, results, iou_type)
        evaluation.params.catIds = list(cat_ids)
        evaluation.params.maxDets = list(max_dets)
        if iou_thrs is not None:
            evaluation.params.iouThrs = np.atleast_1d(iou_thrs).astype(np.float64)
        if has_faster_coco_eval() and _counts_alike(ground_truth, detections):
            _evaluate_faster(evaluation)
        else:
            evaluation.evaluate()
            evaluation.accumulate()
        said.truncate(said.seek(0))  # what both libraries say of their work
        evaluation.summarize()
    print_log(f'{iou_type}\n{said.getvalue()}', logger='current')
    return evaluation


@cache
def has_faster_coco_eval() -> bool:
    """Return whether faster-coco-eval is installed; say so in the log, once, if it is not."""
    found = find_spec('faster_coco_eval') is not None
    if not found:
        print_log(
            'COCO metrics by pycocotools: `pip install "mmws[eval]"` makes them several times '
            'faster',
            logger='current',
        )
    return found


@contextlib.contextmanager
def _paused_gc() -> Iterator[None]:
    """Keep the collector from walking a million dictionaries, none in a cycle, over and over."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _evaluate_faster(evaluation: COCOeval) -> None:
    """Fill ``evaluation.eval`` and sort its parameters, as pycocotools does."""
    from faster_coco_eval import COCOeval_faster

    faster = COCOeval_faster(evaluation.cocoGt, evaluation.cocoDt, evaluation.params.iouType)
    for name in ('catIds', 'imgIds', 'maxDets', 'iouThrs'):
        setattr(faster.params, name, getattr(evaluation.params, name))
    faster.evaluate()
    faster.accumulate()
    evaluation.params.catIds = faster.params.catIds
    evaluation.params.maxDets = faster.params.maxDets
    evaluation.eval = {
        name: np.asarray(faster.eval[name]) for name in ('precision', 'recall', 'scores')
    }


def _detections(
    ground_truth: COCO, predictions: Iterable[dict], iou_type: str, cat_ids: Sequence[int]
) -> 'Iterator[dict[str, Any]]':
    """Yield the detections as annotations, without the detour of pycocotools over JSON."""
    occurring = {(a['image_id'], a['category_id']) for a in ground_truth.anns.values()}
    detection_id = 0
    for prediction in predictions:
        image_id = prediction['img_id']
        if image_id not in ground_truth.imgs:
            raise ValueError(f'a prediction is of image {image_id!r}, which is not annotated')
        categories = [cat_ids[label] for label in prediction['labels'].tolist()]
        if iou_type == 'segm':
            scores = prediction.get('mask_scores', prediction['scores']).tolist()
            masks = prediction['masks']
            fields = [
                {
                    'segmentation': mask if (image_id, category) in occurring else _NO_MASK,
                    'area': float(mask_utils.area(mask)),
                }
                for mask, category in zip(masks, categories)
            ]
        else:
            scores = prediction['scores'].tolist()
            boxes = prediction['bboxes'].copy()
            boxes[:, 2:] -= boxes[:, :2]
            fields = [{'bbox': box, 'area': box[2] * box[3]} for box in boxes.tolist()]
        for score, category, field in zip(scores, categories, fields):
            detection_id += 1
            yield {
                'id': detection_id,
                'image_id': image_id,
                'category_id': category,
                'score': score,
                'iscrowd': 0,
                **field,
            }


def _counts_alike(ground_truth: COCO, detections: 'list[dict]') -> bool:
    """Return whether both libraries are known to count this alike."""
    annotations = ground_truth.dataset.get('annotations', [])
    ids = [*ground_truth.imgs, *ground_truth.cats, *(a['id'] for a in annotations)]
    if any(type(i) is not int or i < 0 for i in ids):
        return False
    if any('iscrowd' not in a or 'area' not in a for a in annotations):
        return False
    numbers = [(a['area'], *a['bbox']) for a in annotations]
    numbers += [(d['score'], *d.get('bbox', (0, 0, 0, 0))) for d in detections]
    return bool(np.isfinite(np.array(numbers, np.float64)).all())
