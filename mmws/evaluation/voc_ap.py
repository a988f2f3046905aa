"""Average precision as PASCAL VOC defines it, of boxes and of instance masks.

The rules are those of ``VOCevaldet.m`` of VOC's development kit; with masks in the place of boxes
they give AP^r of Hariharan et al., "Simultaneous Detection and Segmentation", ECCV 2014
(https://arxiv.org/abs/1407.1808), section 4.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation.functional import average_precision
from pycocotools import mask as mask_utils


class VOCResult(NamedTuple):
    """AP of one class at one IoU threshold; NaN for a class without ground truth.

    Attributes:
        area: Area under the precision-recall curve (VOC2010 and later).
        eleven_points: Mean of the precision at 11 recalls (VOC2007).
        num_gts: Number of objects, without ``difficult`` ones.
        num_dets: Number of detections, including those of ``difficult`` objects.
    """

    area: float
    eleven_points: float
    num_gts: int
    num_dets: int


def evaluate_voc(
    ground_truth: COCO,
    predictions: Iterable[dict],
    iou_type: str,
    *,
    cat_ids: Sequence[int],
    iou_thrs: Sequence[float],
    img_ids: Sequence | None = None,
) -> dict[float, list[VOCResult]]:
    """Evaluate detections by VOC's rules.

    A detection is assigned to the object of its class and image with the largest IoU. Detections
    are taken by falling score. The first one whose IoU with its object reaches the threshold is a
    true positive, all others are false positives. A detection that reaches the threshold with a
    ``difficult`` object counts as neither.

    Args:
        ground_truth: The annotations. An object is ``difficult`` by the field of this name; where
            the field is missing, by ``iscrowd``.
        predictions: As for :func:`mmws.evaluation.evaluate_coco`.
        iou_type: ``'bbox'`` or ``'segm'``.
        cat_ids: Category id of each label.
        iou_thrs: IoU thresholds.
        img_ids: Images to count; all of ``ground_truth`` if ``None``.

    Returns:
        The results of the classes in the order of ``cat_ids``, for each threshold.
    """
    matches = _best_matches(ground_truth, predictions, iou_type, cat_ids)
    num_gts = dict.fromkeys(cat_ids, 0)
    counted = set(ground_truth.imgs if img_ids is None else img_ids)
    for annotation in ground_truth.anns.values():
        if annotation['image_id'] not in counted:
            continue
        if annotation['category_id'] in num_gts and not _is_difficult(annotation):
            num_gts[annotation['category_id']] += 1
    return {
        iou_thr: [
            _evaluate_class(matches[category], num_gts[category], iou_thr) for category in cat_ids
        ]
        for iou_thr in iou_thrs
    }


def _is_difficult(annotation: dict[str, Any]) -> bool:
    return bool(annotation.get('difficult', annotation.get('iscrowd', 0)))


def _best_matches(
    ground_truth: COCO, predictions: Iterable[dict], iou_type: str, cat_ids: Sequence[int]
) -> dict[int, np.ndarray]:
    """Return (score, IoU, object, difficult) of each detection with its best object, by category.

    Objects are numbered from 0. A detection in an image without objects of its class has object -1
    and IoU 0.

    Returns:
        For each category an array (N, 4) of N detections.
    """
    objects = defaultdict(list)
    for number, annotation in enumerate(ground_truth.anns.values()):
        key = annotation['image_id'], annotation['category_id']
        objects[key].append((number, annotation))
    rows = defaultdict(list)
    for prediction in predictions:
        scores, shapes = _scores_and_shapes(prediction, iou_type)
        for label in np.unique(prediction['labels']).tolist():
            chosen = np.flatnonzero(prediction['labels'] == label)
            found = np.zeros((len(chosen), 4))
            found[:, 0], found[:, 2] = scores[chosen], -1
            candidates = objects.get((prediction['img_id'], cat_ids[label]))
            if candidates:
                numbers, annotations = zip(*candidates)
                shapes_of_objects = _shapes_of(ground_truth, annotations, iou_type)
                ious = mask_utils.iou(
                    [shapes[i] for i in chosen], shapes_of_objects, [0] * len(annotations)
                )
                best = ious.argmax(1)
                found[:, 1] = ious.max(1)
                found[:, 2] = np.array(numbers)[best]
                found[:, 3] = np.array([_is_difficult(a) for a in annotations])[best]
            rows[cat_ids[label]].append(found)
    return {
        category: np.concatenate(rows[category]) if rows[category] else np.zeros((0, 4))
        for category in cat_ids
    }


def _scores_and_shapes(prediction: dict, iou_type: str) -> tuple[np.ndarray, list]:
    """Return scores, (N,), and N shapes as pycocotools compares them: [x, y, w, h], or RLE."""
    if iou_type == 'segm':
        return prediction.get('mask_scores', prediction['scores']), prediction['masks']
    boxes = prediction['bboxes'].astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return prediction['scores'], boxes.tolist()


def _shapes_of(ground_truth: COCO, annotations: Iterable[dict], iou_type: str) -> list:
    if iou_type == 'segm':
        return [ground_truth.annToRLE(annotation) for annotation in annotations]
    return [annotation['bbox'] for annotation in annotations]


def _evaluate_class(matches: np.ndarray, num_gts: int, iou_thr: float) -> VOCResult:
    """Evaluate ``matches`` of one class, (N, 4) of score, IoU, object and difficult."""
    if num_gts == 0:
        return VOCResult(float('nan'), float('nan'), 0, len(matches))
    _, iou, number, difficult = matches[np.argsort(-matches[:, 0], kind='stable')].T
    near = (iou >= iou_thr) & (number >= 0)
    # `np.unique` returns the first detection of each object, which is the one with the best score.
    candidates = np.flatnonzero(near & (difficult == 0))
    hit = np.zeros(len(matches), bool)
    hit[candidates[np.unique(number[candidates], return_index=True)[1]]] = True
    counted = ~(near & (difficult == 1))
    hits = np.cumsum(hit[counted])
    recall = hits / num_gts
    precision = hits / np.arange(1, len(hits) + 1)
    area, eleven_points = (
        float(average_precision(recall, precision, mode)) for mode in ('area', '11points')
    )
    return VOCResult(area, eleven_points, num_gts, len(matches))
