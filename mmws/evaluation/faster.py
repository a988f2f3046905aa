"""COCO evaluation by faster-coco-eval. Import it only where that package is installed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from faster_coco_eval import COCOeval_faster
from mmdet.datasets.api_wrappers import COCO
from pycocotools import mask as mask_utils


class FasterEvaluation(COCOeval_faster):
    """faster-coco-eval's evaluation with pycocotools' IoUs.

    For IoUs, faster-coco-eval decodes every mask, encodes it, and decodes it again for each
    comparison. pycocotools compares the encoded masks.

    Args:
        ground_truth: The annotations.
        detections: Annotations with a ``score``, numbered from 1.
        iou_type: ``'bbox'`` or ``'segm'``.
        cat_ids: Categories that are evaluated. Shapes of other objects are not looked at.
    """

    def __init__(
        self,
        ground_truth: COCO,
        detections: list[dict],
        iou_type: str,
        cat_ids: Sequence[int],
    ) -> None:
        # With iou_type 'segm' the constructor would decode all masks, which only its IoUs need.
        super().__init__(ground_truth, _Results(ground_truth, detections), 'bbox')
        shape = 'segmentation' if iou_type == 'segm' else 'bbox'
        # pycocotools converts a list of boxes one by one, and takes an array without conversion.
        self._together = list if iou_type == 'segm' else np.array
        self._objects = defaultdict(list)
        for annotation in ground_truth.anns.values():
            if annotation['category_id'] not in cat_ids:
                continue
            if iou_type == 'segm':
                # Convert in place, as pycocotools does, so that the next evaluation finds RLE.
                annotation['segmentation'] = ground_truth.annToRLE(annotation)
            key = annotation['image_id'], annotation['category_id']
            self._objects[key].append((annotation[shape], int(annotation['iscrowd'])))
        self._detections = defaultdict(list)
        for detection in detections:
            key = detection['image_id'], detection['category_id']
            if key in self._objects:
                self._detections[key].append((detection['score'], detection[shape]))

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list:
        """Return IoUs (N, G) of the N best detections, by falling score, with the G objects."""
        objects, detections = self._objects[imgId, catId], self._detections[imgId, catId]
        if not objects or not detections:
            return []
        scores, shapes = zip(*detections)
        order = np.argsort(-np.array(scores), kind='stable')[: self.params.maxDets[-1]]
        shapes_of_objects, crowds = zip(*objects)
        detected = self._together([shapes[i] for i in order])
        return mask_utils.iou(detected, self._together(shapes_of_objects), list(crowds))


class _Results:
    """The part of a COCO object of detections that faster-coco-eval uses, without its indices."""

    def __init__(self, ground_truth: COCO, detections: list[dict]) -> None:
        self.imgs = ground_truth.imgs
        self.detections = detections

    def getAnnIds(self, imgIds: Sequence[int], catIds: Sequence[int]) -> range:
        """Return all ids; the arguments select nothing, as they name all images and classes."""
        return range(1, len(self.detections) + 1)

    def loadAnns(self, ids: range) -> list[dict]:
        """Return all detections."""
        return self.detections
