"""MMDetection's COCO metric with a faster evaluation."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.logging import print_log
from terminaltables import AsciiTable

from mmws.registry import METRICS

from .coco_eval import CocoResult, evaluate_coco
from .curves import draw_pr_curves, require_picture
from .ground_truth import countable

# Names of pycocotools' `stats`, in their order. MMDetection's limits of detections replace COCO's,
# so recalls are named after 100, 300 and 1000 detections.
ITEMS = (
    'mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l',
    'AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000',
)  # fmt: skip


class ClassScore(NamedTuple):
    """How well a class was found: objects without crowds, and mAP by ``'bbox'``, ``'segm'``."""

    name: str
    objects: int
    mean_ap: dict[str, float]


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """COCO box and mask AP, with the arguments and the numbers of ``mmdet.CocoMetric``.

    :func:`mmws.evaluation.evaluate_coco` evaluates boxes and masks, several times faster. If
    ``metric`` has proposals, MMDetection's code evaluates everything. Without any detection the
    metrics are 0, where MMDetection returns none.

    Args:
        pr_curves: Picture file for a plot of precision over recall, such as
            ``'work_dirs/pr.png'``. Each evaluation replaces it.
        **kwargs: Arguments of ``mmdet.CocoMetric``: ``ann_file``, ``metric=['bbox', 'segm']``,
            ``classwise=True`` for a table of the classes, ...

    Attributes:
        by_class: Of the last evaluation, a row for each class: its name, its number of objects,
            and its mAP by IoU type, NaN for a class without objects.

    Raises:
        ImportError: if ``pr_curves`` is given and matplotlib is missing.
        ValueError: if the suffix of ``pr_curves`` is that of no picture format, or if
            ``proposal_nums`` are not three limits with 100 among them.
    """

    by_class: Sequence[ClassScore] = ()
    _coco_api: Any  # MMDetection's COCO; None until annotations without a file are converted.
    cat_ids: Any  # Ids of the classes; None until the first evaluation.

    def __init__(self, *args: Any, pr_curves: str | None = None, **kwargs: Any) -> None:
        if pr_curves is not None:
            require_picture(pr_curves)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            super().__init__(*args, **kwargs)
        if {'bbox', 'segm'}.issuperset(self.metrics):
            _check_limits(self.proposal_nums)
        if self._coco_api is not None:
            self._coco_api = countable(self._coco_api)
        self.pr_curves = pr_curves

    def compute_metrics(self, results: list) -> dict[str, float]:
        if self.format_only or not {'bbox', 'segm'}.issuperset(self.metrics):
            return super().compute_metrics(results)
        annotated, predictions = zip(*results)
        if 'segm' in self.metrics and 'masks' not in predictions[0]:
            raise ValueError("metric 'segm': the model predicts no masks: leave it out")
        self._prepare(annotated)
        if self.outfile_prefix is not None:
            self.results2json(predictions, self.outfile_prefix)
        img_ids = self._images_seen(predictions)
        evaluations = {
            iou_type: evaluate_coco(
                self._coco_api,
                predictions,
                iou_type,
                cat_ids=self.cat_ids,
                max_dets=self.proposal_nums,
                iou_thrs=self.iou_thrs,
                img_ids=img_ids,
            )
            for iou_type in self.metrics
        }
        self.by_class = self._scores_by_class(evaluations, img_ids)
        metrics: dict[str, float] = OrderedDict()
        for iou_type, evaluation in evaluations.items():
            if self.classwise:
                metrics.update(self._classwise(iou_type, evaluation))
            metrics.update(self._named(iou_type, evaluation.stats))
        if self.pr_curves is not None:
            draw_pr_curves(evaluations, self.pr_curves)
        return metrics

    def _prepare(self, annotated: Sequence[dict]) -> None:
        """Set up what needs the annotations of the data set: the COCO object and ids of classes.

        Args:
            annotated: Annotations of the images, used if the metric has no annotation file.
        """
        if self._coco_api is None:
            with (
                tempfile.TemporaryDirectory() as folder,
                contextlib.redirect_stdout(io.StringIO()),
            ):
                path = self.gt_to_coco_json(annotated, os.path.join(folder, 'converted'))
                self._coco_api = COCO(path)
        if self.cat_ids is None:
            classes = self.dataset_meta['classes']
            annotated_classes = {c['name'] for c in self._coco_api.dataset['categories']}
            missing = [name for name in classes if name not in annotated_classes]
            if missing:
                raise ValueError(
                    f'the annotation file of the metric lacks the class {missing[0]!r}: give the '
                    "metric the data set's file"
                )
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=classes)
            self.img_ids = self._coco_api.get_img_ids()

    def _images_seen(self, predictions: Sequence[dict]) -> list[Any] | None:
        """Return the images of a data set that has some of the annotated ones, by ``indices``.

        ``None`` stands for all. Objects of images that the detector was not shown are not missed.
        """
        seen = {prediction['img_id'] for prediction in predictions}
        annotated = self._coco_api.imgs
        if len(seen) == len(annotated):
            return None
        print_log(
            f'evaluation on {len(seen)} of the {len(annotated)} annotated images: the data set has '
            'no others',
            logger='current',
        )
        return [image_id for image_id in annotated if image_id in seen]

    def _named(self, iou_type: str, stats: np.ndarray) -> dict[str, float]:
        """Return the metrics that ``metric_items`` asks for, by name."""
        items = self.metric_items or ITEMS[:6]
        for item in items:
            if item not in ITEMS:
                raise KeyError(f'metric_items: {item!r} is none of {", ".join(ITEMS)}')
        return {f'{iou_type}_{item}': round(float(stats[ITEMS.index(item)]), 3) for item in items}

    def _scores_by_class(
        self, evaluations: Mapping[str, CocoResult], img_ids: list[Any] | None
    ) -> list[ClassScore]:
        annotations = self._coco_api.dataset.get('annotations', [])
        seen = None if img_ids is None else {*img_ids}
        objects = Counter(
            a['category_id']
            for a in annotations
            if not a.get('iscrowd') and (seen is None or a['image_id'] in seen)
        )
        rows = []
        for category in self._coco_api.load_cats(self.cat_ids):
            mean_ap = {
                iou_type: mean_precision(
                    result.precision[:, :, result.cat_ids.index(category['id']), 0, -1]
                )
                for iou_type, result in evaluations.items()
            }
            rows.append(ClassScore(category['name'], objects[category['id']], mean_ap))
        return rows

    def _classwise(self, iou_type: str, evaluation: CocoResult) -> dict[str, float]:
        """Log a table with a row for each class; return the AP of each class by name."""
        precision = evaluation.precision[..., -1]
        thrs = list(np.round(evaluation.iou_thrs, 6))
        columns: dict[str, tuple[slice | int, int]] = {'mAP': (slice(None), 0)}
        columns.update({f'mAP_{t * 100:.0f}': (thrs.index(t), 0) for t in (0.5, 0.75) if t in thrs})
        columns.update({f'mAP_{size}': (slice(None), i) for i, size in enumerate('sml', start=1)})
        # `evaluation.cat_ids` is sorted by id, `self.cat_ids` by label.
        order = [evaluation.cat_ids.index(category) for category in self.cat_ids]
        rows = [
            [mean_precision(precision[at, :, k, area]) for at, area in columns.values()]
            for k in order
        ]
        names = [category['name'] for category in self._coco_api.load_cats(self.cat_ids)]
        log_table(f'{iou_type} by class', ['category', *columns], zip(names, rows))
        return {f'{name}_precision': round(row[0], 3) for name, row in zip(names, rows)}


def _check_limits(proposal_nums: Sequence[int]) -> None:
    # COCO's mAP is that of 100 detections per image: without this limit pycocotools gives -1.
    if len(proposal_nums) != 3 or 100 not in proposal_nums:
        raise ValueError(
            f'proposal_nums {tuple(proposal_nums)} of the COCO metric: give three limits of '
            'detections per image with 100 among them, for which mAP is defined'
        )


def mean_precision(precision: np.ndarray) -> float:
    """Return the mean of COCO precisions without those that are -1 (no ground truth), else NaN."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float('nan')


def log_table(title: str, header: list[str], rows: Iterable[tuple[str, Iterable]]) -> None:
    """Log a table of (name, numbers) rows."""
    body = [
        [name, *(f'{x:.3f}' if isinstance(x, float) else x for x in numbers)]
        for name, numbers in rows
    ]
    table = AsciiTable([header, *body], title)
    table.justify_columns = dict.fromkeys(range(1, len(header)), 'right')
    print_log(f'\n{table.table}', logger='current')
