"""Draw boxes, masks, class names and scores into images, alike in every report."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmcv.image import imrescale
from mmengine.structures import InstanceData

from mmws.data.palette import make_palette

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer

SCORE_THRESHOLD = 0.3  # predictions below it are not drawn
# Pixels; smaller images are enlarged, or labels would hide them, but narrow ones not without end.
_MIN_SIDE, _MAX_SIDE = 600, 4000


def make_visualizer(meta: 'dict[str, Any]') -> 'DetLocalVisualizer':
    """Return mmdet's visualizer for the classes of a data set.

    Args:
        meta: ``classes``, and by option their ``palette``; one that has too few colours, which
            the visualizer stops at, is replaced.
    """
    from mmdet.visualization import DetLocalVisualizer

    visualizer = DetLocalVisualizer(alpha=0.5)
    classes, palette = tuple(meta['classes']), meta.get('palette')
    if not isinstance(palette, (list, tuple)) or len(palette) < len(classes):
        palette = make_palette(len(classes))
    visualizer.dataset_meta = {'classes': classes, 'palette': palette}
    return visualizer


def draw(
    visualizer: 'DetLocalVisualizer',
    image: np.ndarray,
    sample: 'DetDataSample',
    score_threshold: float = SCORE_THRESHOLD,
) -> np.ndarray:
    """Draw the instances of a sample; ground truth stands left of predictions if it has both.

    Args:
        visualizer: From :func:`make_visualizer`.
        image: RGB, uint8, of shape (H, W, 3).
        sample: With ``gt_instances``, ``pred_instances`` or both, in the pixels of ``image``.
        score_threshold: Predictions below it are left out.

    Returns:
        RGB, uint8, of shape (s·H, s·W, 3), or (s·H, 2·s·W, 3) with both; the integer s ≥ 1
        enlarges small images.
    """
    height, width = image.shape[:2]
    scale = max(1, min(math.ceil(_MIN_SIDE / min(height, width)), _MAX_SIDE // max(height, width)))
    drawn = type(sample)()
    if 'gt_instances' in sample:
        drawn.gt_instances = _enlarged(sample.gt_instances, scale)
    if 'pred_instances' in sample:
        instances = sample.pred_instances.cpu()
        drawn.pred_instances = _enlarged(instances[instances.scores >= score_threshold], scale)
    visualizer.add_datasample(
        '',
        imrescale(np.ascontiguousarray(image), scale),
        drawn,
        draw_gt='gt_instances' in drawn,
        draw_pred='pred_instances' in drawn,
        pred_score_thr=-1.0,  # all that are left
    )
    return visualizer.get_image()


def _enlarged(instances: InstanceData, scale: int) -> InstanceData:
    enlarged = InstanceData(labels=instances.labels)
    if 'scores' in instances:
        enlarged.scores = instances.scores
    if 'bboxes' in instances:
        boxes = instances.bboxes
        enlarged.bboxes = (boxes if isinstance(boxes, torch.Tensor) else boxes.tensor) * scale
    if 'masks' in instances:
        masks = instances.masks
        if not isinstance(masks, torch.Tensor):
            masks = masks.to_tensor(torch.bool, 'cpu')
        enlarged.masks = masks.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return enlarged
