"""PASCAL VOC's metrics in addition to COCO's."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmws.registry import METRICS

from .coco_metric import CocoMetric, log_table
from .voc_ap import evaluate_voc


@METRICS.register_module()
class VOCMetric(CocoMetric):
    """PASCAL VOC's and COCO's AP of boxes and instance masks, from a COCO annotation file.

    The metrics of :class:`CocoMetric` are followed by means over the classes by VOC's rules (see
    :func:`mmws.evaluation.evaluate_voc`):

    - ``bbox_AP50``: AP of boxes at IoU 0.5, area under the curve (VOC2010 and later);
    - ``bbox_AP50_11point``: AP of boxes at IoU 0.5, mean precision at 11 recalls (VOC2007);
    - ``segm_APr50``, ``segm_APr70``: AP of masks (AP^r) at IoU 0.5 and 0.7.

    ``bbox_mAP_50`` is COCO's and differs from ``bbox_AP50``: it takes 101 recalls, at most
    ``proposal_nums`` detections per image, and has other rules for ``difficult`` objects.
    ``tools/dataset_converters/voc_instances.py`` converts the annotations of VOC and SBD.

    Args:
        **kwargs: Arguments of :class:`CocoMetric`, with ``metric`` out of ``'bbox'`` and
            ``'segm'``. ``classwise=True`` also logs VOC's numbers of each class.

    Raises:
        ValueError: if ``metric`` has another name in it.
    """

    default_prefix = 'voc'

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        others = set(self.metrics) - {'bbox', 'segm'}
        if others:
            raise ValueError(
                f"mmws.VOCMetric: metric takes 'bbox' and 'segm', not {others.pop()!r}"
            )

    def compute_metrics(self, results: list) -> dict[str, float]:
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        predictions = [prediction for _, prediction in results]
        img_ids = self._images_seen(predictions)
        for iou_type in self.metrics:
            iou_thrs = (0.5, 0.7) if iou_type == 'segm' else (0.5,)
            found = evaluate_voc(
                self._coco_api,
                predictions,
                iou_type,
                cat_ids=self.cat_ids,
                iou_thrs=iou_thrs,
                img_ids=img_ids,
            )
            columns: dict[str, list[float]] = {}
            for iou_thr, classes in found.items():
                name = f'{iou_type}_AP{"r" if iou_type == "segm" else ""}{iou_thr * 100:.0f}'
                columns[name] = [result.area for result in classes]
                if iou_type == 'bbox':
                    columns[f'{name}_11point'] = [result.eleven_points for result in classes]
            metrics.update({name: _mean(values) for name, values in columns.items()})
            if self.classwise:
                classes = found[0.5]
                counts = {
                    'objects': [result.num_gts for result in classes],
                    'detections': [result.num_dets for result in classes],
                }
                names = [category['name'] for category in self._coco_api.load_cats(self.cat_ids)]
                table = {**counts, **columns}
                rows = zip(names, zip(*table.values()))
                log_table(f'{iou_type} by class, VOC', ['category', *table], rows)
        return metrics


def _mean(values: list[float]) -> float:
    """Return the mean over the classes that have ground truth; 0 if none has, as MMDetection."""
    known = [value for value in values if not np.isnan(value)]
    return round(float(np.mean(known)), 3) if known else 0.0
