"""COCO's twelve metrics, by faster-coco-eval where it gives the same numbers as pycocotools."""

from __future__ import annotations

import contextlib
import gc
import io
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmengine.logging import print_log
from pycocotools import mask as mask_utils

from .ground_truth import countable

_LARGEST_ID = 2**53
"""The largest id that faster-coco-eval counts right: ids go through 64-bit floats there."""


class CocoResult(NamedTuple):
    """Results of COCO evaluation; -1 where a class or an area range has no ground truth.

    Attributes:
        stats: The twelve metrics, (12,).
        precision: Precision at (T IoUs, 101 recalls, K classes, 4 area ranges, M limits).
        recall: Largest recall at (T, K, 4, M).
        cat_ids: Category id of each class, in increasing order.
        iou_thrs: IoU thresholds, T.
    """

    stats: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    cat_ids: tuple[int, ...]
    iou_thrs: tuple[float, ...]


def evaluate_coco(
    ground_truth: COCO,
    predictions: Iterable[dict],
    iou_type: str,
    *,
    cat_ids: Sequence[int],
    max_dets: Sequence[int] = (1, 10, 100),
    iou_thrs: Sequence[float] | None = None,
    img_ids: Sequence[Any] | None = None,
) -> CocoResult:
    """Evaluate detections as https://cocodataset.org/#detection-eval defines it.

    faster-coco-eval matches detections with objects, if it is installed and the data have nothing
    that it is known to count differently or to refuse: ids that are no integers from 0 to 2**53,
    annotations without ``area`` or ``iscrowd``, numbers that are not finite. Otherwise pycocotools
    matches them. In both cases pycocotools computes the metrics from the matches.

    Annotations of images that are not listed, with the id 0 or with an id that others have are
    counted as :func:`mmws.evaluation.ground_truth.countable` says.

    Args:
        ground_truth: The annotations.
        predictions: For each image a dict of ``img_id``; ``bboxes``, (N, 4) as x1, y1, x2, y2 in
            pixels; ``scores`` and ``labels``, (N,), all NumPy; and for ``'segm'`` N RLEs in
            ``masks``, with scores of their own in ``mask_scores`` or those of the boxes.
        iou_type: ``'bbox'`` or ``'segm'``.
        cat_ids: Category id of each label.
        max_dets: Three limits of detections per image, in increasing order.
        iou_thrs: IoU thresholds, T; 0.50:0.05:0.95 if ``None``.
        img_ids: Images to count; all of ``ground_truth`` if ``None``.

    Raises:
        ValueError: if a prediction names an image that ``ground_truth`` does not have.
    """
    predictions = list(predictions)
    ground_truth = countable(ground_truth)
    with _paused_gc(), contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluation = COCOeval(ground_truth, iouType=iou_type)
        evaluation.params.catIds = list(cat_ids)
        evaluation.params.maxDets = list(max_dets)
        if img_ids is not None:
            evaluation.params.imgIds = list(img_ids)
        if iou_thrs is not None:
            evaluation.params.iouThrs = np.atleast_1d(iou_thrs).astype(np.float64)
        detections = list(_detections(ground_truth, predictions, iou_type, cat_ids))
        if has_faster_coco_eval() and _counts_alike(ground_truth, predictions, iou_type, cat_ids):
            _evaluate_faster(evaluation, detections)
        else:
            _evaluate(evaluation, detections)
        # Drop the progress messages of both libraries: the log gets the summary alone.
        printed.truncate(printed.seek(0))
        evaluation.summarize()
        # Free up to half a million dicts before the garbage collector runs again and walks them.
        del detections
    print_log(f'{iou_type}\n{printed.getvalue()}', logger='current')
    return CocoResult(
        evaluation.stats,
        evaluation.eval['precision'],
        evaluation.eval['recall'],
        tuple(evaluation.params.catIds),
        tuple(evaluation.params.iouThrs),
    )


@cache
def has_faster_coco_eval() -> bool:
    """Return whether faster-coco-eval is installed; the first call logs a hint if it is not."""
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
    """Pause the garbage collector.

    An evaluation makes a million dicts that are in no reference cycle. The collector would walk all
    of them again and again and free none.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _evaluate(evaluation: COCOeval, detections: list[dict]) -> None:
    """Set ``evaluation.eval`` by pycocotools."""
    results = COCO()
    results.dataset = {**evaluation.cocoGt.dataset, 'annotations': detections}
    results.createIndex()
    evaluation.cocoDt = results
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.cocoDt = None


def _evaluate_faster(evaluation: COCOeval, detections: list[dict]) -> None:
    """Set ``evaluation.eval`` by faster-coco-eval, and sort the parameters as pycocotools does."""
    from .faster import FasterEvaluation

    params = evaluation.params
    faster = FasterEvaluation(evaluation.cocoGt, detections, params.iouType, params.catIds)
    for name in ('catIds', 'imgIds', 'maxDets', 'iouThrs'):
        setattr(faster.params, name, getattr(params, name))
    faster.evaluate()
    faster.accumulate()
    params.catIds, params.maxDets = faster.params.catIds, faster.params.maxDets
    evaluation.eval = {name: np.asarray(faster.eval[name]) for name in ('precision', 'recall')}


def _detections(
    ground_truth: COCO, predictions: Iterable[dict], iou_type: str, cat_ids: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yield the detections as annotations of COCO.

    ``COCO.loadRes`` of pycocotools makes the same from a JSON file, in several times the time.
    """
    detection_id = 0
    for prediction in predictions:
        image_id = prediction['img_id']
        if image_id not in ground_truth.imgs:
            raise ValueError(f'a prediction is of image {image_id!r}, which is not annotated')
        categories = [cat_ids[label] for label in prediction['labels'].tolist()]
        if iou_type == 'segm':
            scores = prediction.get('mask_scores', prediction['scores']).tolist()
            masks = prediction['masks']
            fields = [{'segmentation': m, 'area': a} for m, a in zip(masks, _areas(masks))]
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
                **field,
            }


def _areas(masks: list[dict]) -> list[float]:
    # pycocotools counts masks in 8 bits, so a call must have at most 255.
    chunks = (masks[i : i + 255] for i in range(0, len(masks), 255))
    return [float(area) for chunk in chunks for area in mask_utils.area(chunk)]


def _counts_alike(
    ground_truth: COCO, predictions: list[dict], iou_type: str, cat_ids: Sequence[int]
) -> bool:
    """Return whether faster-coco-eval and pycocotools are known to count these data alike."""
    evaluated = {*cat_ids}
    annotations = [a for a in ground_truth.anns.values() if a['category_id'] in evaluated]
    ids = [*ground_truth.imgs, *ground_truth.cats, *ground_truth.anns]
    if any(type(i) is not int or not 0 <= i <= _LARGEST_ID for i in ids):
        return False
    if any('iscrowd' not in a or 'area' not in a for a in annotations):
        return False
    rows = [(a['area'], *(a.get('bbox', ()) if iou_type == 'bbox' else ())) for a in annotations]
    if len({len(row) for row in rows}) > 1:
        return False
    numbers = [np.array(rows, np.float64)]
    numbers += [p[key] for p in predictions for key in ('bboxes', 'scores')]
    numbers += [p['mask_scores'] for p in predictions if 'mask_scores' in p]
    return all(np.isfinite(array).all() for array in numbers)
