"""Compare the predictions of a detector with the truth, image by image and class by class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from tqdm import tqdm

from mmws.checkpoints import Checkpoint
from mmws.checkpoints.classes import map_predictions
from mmws.data.raw_images import reads_raw, viewable

from .drawing import SCORE_THRESHOLD, Painter, make_visualizer
from .predict import load_detector

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample

IOU_THRESHOLD = 0.5  # of boxes, for a prediction to be a hit


@dataclass
class ImageResult:
    """How well one image was predicted.

    Attributes:
        path: The image.
        index: Its number in the data set.
        objects: Number of objects.
        predictions: Number of predictions above the score threshold.
        hits: Predictions of the right class at an object, each object once.
    """

    path: Path
    index: int
    objects: int
    predictions: int
    hits: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where there is nothing to find, nor found."""
        total = self.objects + self.predictions
        return 2 * self.hits / total if total else 1.0


@dataclass
class Examination:
    """What was found on all images.

    Attributes:
        classes: Names of the K classes.
        confusion: Of shape (K + 1, K + 1): rows are objects, columns predictions, each at the best
            overlap; the last row is for false alarms and the last column for missed objects.
        images: One result for each image.
    """

    classes: tuple[str, ...]
    confusion: np.ndarray
    images: list[ImageResult] = field(default_factory=list)

    def by_class(self) -> list[tuple[str, int, int, int, int]]:
        """Return name, objects, found, missed or taken for others, and wrong alarms of a class."""
        rows = []
        for k, name in enumerate(self.classes):
            objects, found = int(self.confusion[k].sum()), int(self.confusion[k, k])
            wrong = int(self.confusion[:, k].sum()) - found
            rows.append((name, objects, found, objects - found, wrong))
        return rows


def predicted_samples(
    config: Config, checkpoint: str | Path, indices: list[int] | None = None, limit: int = 100
) -> Iterator[tuple[int, Path, np.ndarray, DetDataSample, Painter]]:
    """Predict images of the test split, and yield them with their truth.

    Args:
        config: Its ``test_dataloader.dataset`` names the images.
        checkpoint: Weights to predict with.
        indices: Images to take. ``None``: the first ``limit``.
        limit: Most images.

    Yields:
        Index, path, image (BGR, uint8, (H, W, 3)), a sample with ``gt_instances`` and
        ``pred_instances`` numbered by the data set, and what draws them.
    """
    from mmdet.registry import DATASETS
    from mmdet.utils import get_test_pipeline_cfg

    detector = load_detector(config, checkpoint)  # sets the default scope too
    dataset = DATASETS.build(config.test_dataloader.dataset)
    annotations = next(
        (s for s in get_test_pipeline_cfg(config) if 'LoadAnnotations' in str(s['type'])),
        dict(type='LoadAnnotations', with_bbox=True),
    )
    raw = reads_raw(get_test_pipeline_cfg(config))
    load = Compose(
        [
            dict(type='mmws.LoadRawImage' if raw else 'LoadImageFromFile'),
            annotations,
            dict(type='PackDetInputs', meta_keys=()),
        ]
    )
    # Ground truth is numbered by the data set, whatever the checkpoint says.
    map_predictions(detector.model, Checkpoint.read(checkpoint), dataset.metainfo['classes'])
    painter = make_visualizer(dict(detector.model.dataset_meta, **dataset.metainfo))
    if indices is None:
        indices = list(range(min(limit, len(dataset))))
    for index in tqdm(indices, desc='predict', disable=None):
        info = dataset.get_data_info(index)
        path = Path(info['img_path'])
        loaded = load(info)
        sample = loaded['data_samples']
        image = loaded['inputs'].permute(1, 2, 0).numpy()
        predicted = detector([image], return_datasamples=True)['predictions'][0]
        sample.pred_instances = predicted.pred_instances
        yield index, path, viewable(image) if raw else image, sample, painter


def examine(config: Config, checkpoint: str | Path, limit: int = 100) -> Examination:
    """Predict images of the test split and count hits, misses and confusions.

    Args:
        config: Its ``test_dataloader.dataset`` names the images.
        checkpoint: Weights to predict with.
        limit: Most images.
    """
    found: Examination | None = None
    for index, path, _, sample, painter in predicted_samples(config, checkpoint, limit=limit):
        classes = tuple(painter.dataset_meta['classes'])
        if found is None:
            found = Examination(classes, np.zeros((len(classes) + 1, len(classes) + 1), int))
        counts = count_matches(sample.gt_instances, sample.pred_instances.cpu(), len(classes))
        found.confusion += counts
        found.images.append(
            ImageResult(
                path,
                index,
                objects=int(counts[:-1].sum()),
                predictions=int(counts[:, :-1].sum()),
                hits=int(np.trace(counts[:-1, :-1])),
            )
        )
    return found or Examination((), np.zeros((1, 1), int))


def count_matches(truth: Any, predicted: Any, num_classes: int) -> np.ndarray:
    """Match predictions with objects, the best score first, whatever their classes.

    A prediction belongs to the object, not yet taken, that it overlaps most, from an IoU of 0.5 on.

    Args:
        truth: N objects with ``bboxes`` and ``labels``.
        predicted: M predictions with ``bboxes``, ``labels`` and ``scores``.
        num_classes: K.

    Returns:
        Counts of shape (K + 1, K + 1), as :attr:`Examination.confusion`.
    """
    from torchvision.ops import box_iou

    counts = np.zeros((num_classes + 1, num_classes + 1), int)
    predicted = predicted[predicted.scores >= SCORE_THRESHOLD]
    predicted = predicted[predicted.scores.argsort(descending=True)]
    boxes = truth.bboxes if isinstance(truth.bboxes, torch.Tensor) else truth.bboxes.tensor
    overlaps = box_iou(predicted.bboxes.float(), boxes.float()).numpy()
    labels = truth.labels.tolist()
    free = np.ones(len(labels), bool)
    for row, label in zip(overlaps, predicted.labels.tolist()):
        row = np.where(free, row, 0)
        best = int(row.argmax()) if len(row) else -1
        if best >= 0 and row[best] >= IOU_THRESHOLD:
            free[best] = False
            counts[labels[best], label] += 1
        else:
            counts[num_classes, label] += 1
    for label in np.array(labels, int)[free]:
        counts[label, num_classes] += 1
    return counts
