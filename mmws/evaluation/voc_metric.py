"""VOC's and COCO's metrics from one evaluation."""

from typing import Any

import numpy as np

from mmws.registry import METRICS

from .coco_metric import CocoMetric, log_table
from .voc_ap import evaluate_voc


@METRICS.register_module()
class VOCMetric(CocoMetric):
    """PASCAL VOC's AP beside COCO's, of boxes and instance masks in a COCO annotation file.

    To the metrics of :class:`CocoMetric` come, averaged over the classes by VOC's rules (see
    :func:`mmws.evaluation.evaluate_voc`):

    - ``bbox_AP50``: AP of boxes at IoU 0.5, area under the curve (VOC2010 and later);
    - ``bbox_AP50_11point``: the same by 11 points (VOC2007);
    - ``segm_APr50``, ``segm_APr70``: AP^r, of masks, at IoU 0.5 and 0.7.

    ``bbox_mAP_50`` remains COCO's, which differs: 101 points, at most ``proposal_nums`` detections
    per image, and other rules for ``difficult`` objects. `tools/dataset_converters/
    voc_instances.py` writes annotation files from VOC's and SBD's.

    Args:
        **kwargs: Those of :class:`CocoMetric`; ``metric`` of ``'bbox'`` and ``'segm'``. With
            ``classwise=True`` VOC's numbers of each class are logged too.

    Raises:
        ValueError: if another ``metric`` is asked for.
    """

    default_prefix = 'voc'

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        others = set(self.metrics) - {'bbox', 'segm'}
        if others:
            raise ValueError(
                f"mmws.VOCMetric: metric takes 'bbox' and 'segm', not {others.pop()!r}"
            )

    def compute_metrics(self, results: list) -> 'dict[str, float]':
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        predictions = [prediction for _, prediction in results]
        for iou_type in self.metrics:
            iou_thrs = (0.5, 0.7) if iou_type == 'segm' else (0.5,)
            found = evaluate_voc(
                self._coco_api, predictions, iou_type, cat_ids=self.cat_ids, iou_thrs=iou_thrs
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


def _mean(values: 'list[float]') -> float:
    """Return the mean over the classes that have ground truth; 0 if none has, as MMDetection."""
    known = [value for value in values if not np.isnan(value)]
    return round(float(np.mean(known)), 3) if known else 0.0
