"""MMDetection's post-processing in a form that exporters can record: no branch depends on data.

MMDetection asks in Python how many boxes there are, and goes different ways. A recorded program has
one way, so that the numbers of boxes are fixed here: proposals and detections are filled up to
their maximum with copies of the best box, whose score is -1. A copy changes nothing, because
suppression takes away boxes that another one covers; whoever reads the detections leaves out those
whose score is not positive.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ops.suppression import nms

PADDING = -1.0
"""Score of what fills up."""


@contextmanager
def recordable(model: nn.Module) -> Iterator[None]:
    """Replace functions of MMDetection, and settings of ``model``, within the block.

    Raises:
        ValueError: if ``model`` suppresses boxes or pools features in a way that has no form here.
    """
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    functions = {
        'batched_nms': batched_nms,
        'filter_scores_and_topk': filter_scores_and_topk,
        'multiclass_nms': multiclass_nms,
    }
    with ExitStack() as stack:
        # MMDetection 3 has kept branches for exporters that call what version 2 had.
        stack.enter_context(mock.patch('torch.onnx.is_in_onnx_export', return_value=False))
        for name, module in list(sys.modules.items()):
            if name.startswith('mmdet.models'):
                for function, replacement in functions.items():
                    if hasattr(module, function):
                        stack.enter_context(mock.patch.object(module, function, replacement))
        replaced: Any = (
            (SingleRoIExtractor, 'forward', extract_roi_features),
            (FCNMaskHead, '_predict_by_feat_single', select_masks),
        )
        for cls, method, function in replaced:
            stack.enter_context(mock.patch.object(cls, method, function))
        for layer in _roi_layers(model):
            stack.enter_context(mock.patch.object(layer, 'use_torchvision', True))
        for settings in _suppressions(model):
            stack.enter_context(mock.patch.dict(settings, _with_fixed_numbers(settings)))
        yield


def _roi_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the pooling layers of ``model``, which have a form in ONNX if torchvision runs them."""
    for module in model.modules():
        for layer in getattr(module, 'roi_layers', ()):
            if getattr(layer, 'pool_mode', None) != 'avg':
                raise ValueError(
                    f'{type(layer).__name__} of the RoI head cannot be exported: only RoIAlign '
                    'that averages can'
                )
            yield layer


def _suppressions(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield the test settings of all heads that suppress boxes."""
    seen: set[int] = set()
    for module in model.modules():
        settings = getattr(module, 'test_cfg', None)
        if isinstance(settings, dict) and 'nms' in settings and id(settings) not in seen:
            seen.add(id(settings))
            yield settings


def _with_fixed_numbers(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings that hand numbers on to :func:`batched_nms`."""
    suppression = dict(settings['nms'] or {})
    kind = suppression.get('type', 'nms')
    if kind != 'nms':
        raise ValueError(f'the suppression {kind!r} has no form in ONNX: set its type to "nms"')
    if settings.get('max_per_img', 0) <= 0:
        raise ValueError('a head whose test_cfg has no max_per_img cannot be exported')
    suppression['max_num'] = settings['max_per_img']
    suppression['min_size'] = settings.get('min_bbox_size', -1)
    return {'nms': suppression, 'min_bbox_size': -1}


def filter_scores_and_topk(
    scores: Tensor, score_thr: float, topk: int, results: Any = None
) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Return the ``topk`` largest scores; those up to ``score_thr`` become :data:`PADDING`.

    Args:
        scores: (N, C).
        score_thr: Threshold.
        topk: Number of results; fewer if there are not as many scores.
        results: Tensor (N, ...), or a list or a dict of them, to take the same rows of.

    Returns:
        Scores, labels and rows, (K,) each, and the rows of ``results``.
    """
    classes = scores.shape[1]
    flat = scores.flatten()
    flat = torch.where(flat > score_thr, flat, torch.full_like(flat, PADDING))
    count = int(flat.shape[0])
    best, indices = flat.topk(min(topk, count) if topk > 0 else count)
    rows = torch.div(indices, classes, rounding_mode='floor')
    if isinstance(results, dict):
        results = {key: value[rows] for key, value in results.items()}
    elif isinstance(results, list):
        results = [value[rows] for value in results]
    elif results is not None:
        results = results[rows]
    return best, indices % classes, rows, results


def multiclass_nms(
    multi_bboxes: Tensor,
    multi_scores: Tensor,
    score_thr: float,
    nms_cfg: dict[str, Any],
    max_num: int = -1,
    score_factors: Tensor | None = None,
    return_inds: bool = False,
    box_dim: int = 4,
) -> tuple[Tensor, ...]:
    """Suppress boxes class by class.

    Args:
        multi_bboxes: (N, C · 4) or (N, 4).
        multi_scores: (N, C + 1), the last column for the background.
        score_thr: Boxes with a larger score are considered.
        nms_cfg: For :func:`batched_nms`.
        max_num: Number of results.
        score_factors: (N,) or None: factors of the scores.
        return_inds: Return indices too.
        box_dim: Numbers of a box.

    Returns:
        Boxes with scores (K, 5) and labels (K,), with indices (K,) if asked for.
    """
    n, classes = multi_scores.shape[0], multi_scores.shape[1] - 1
    boxes = multi_bboxes.reshape(n, -1, box_dim)
    if boxes.shape[1] != classes:
        boxes = boxes.expand(n, classes, box_dim)
    scores = multi_scores[:, :-1]
    labels = torch.arange(classes, device=scores.device).expand_as(scores).flatten()
    considered = (scores > score_thr).flatten()
    if score_factors is not None:
        scores = scores * score_factors[:, None]
    indices = considered.nonzero()[:, 0]
    # One box more: the operator for suppression needs at least one.
    boxes = torch.cat([boxes.reshape(-1, box_dim)[indices], boxes.new_zeros(1, box_dim)])
    scores = torch.cat([scores.flatten()[indices], scores.new_full((1,), PADDING)])
    labels = torch.cat([labels[indices], labels.new_zeros(1)])
    dets, keep = batched_nms(boxes, scores, labels, {'max_num': max_num, **nms_cfg})
    return (dets, labels[keep], keep) if return_inds else (dets, labels[keep])


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    nms_cfg: dict[str, Any],
    class_agnostic: bool = False,
) -> tuple[Tensor, Tensor]:
    """Suppress boxes within each group; fill up to ``max_num`` of ``nms_cfg``.

    Args:
        boxes: (N, 4), N > 0.
        scores: (N,); those below 0 do not count.
        idxs: (N,), the groups.
        nms_cfg: ``iou_threshold``, ``offset``, ``class_agnostic``, ``max_num``, and ``min_size``,
            which both sides of a box must exceed.
        class_agnostic: Whether all boxes are one group.

    Returns:
        Boxes with scores (K, 5), and their indices (K,), where K is ``max_num``.
    """
    boxes_by_group = boxes
    if not nms_cfg.get('class_agnostic', class_agnostic):
        boxes_by_group = boxes + (idxs.to(boxes) * (boxes.max() + 1))[:, None]
    smallest = nms_cfg.get('min_size', -1)
    if smallest >= 0:
        large = ((boxes[:, 2:] - boxes[:, :2]) > smallest).all(1)
        scores = torch.where(large, scores, torch.full_like(scores, PADDING))
    keep = nms(boxes_by_group, scores, nms_cfg['iou_threshold'], nms_cfg.get('offset', 0))
    kept = scores[keep]
    best = keep[:1]
    keep = torch.where(kept < 0, best, keep)
    count = nms_cfg['max_num']
    keep = torch.cat([keep, best.expand(count)])[:count]
    kept = torch.cat([kept, kept.new_full((count,), PADDING)])[:count]
    return torch.cat([boxes[keep], kept[:, None]], 1), keep


def extract_roi_features(
    self: Any, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None
) -> Tensor:
    """Do ``SingleRoIExtractor.forward``: pool every region from one level of a pyramid.

    Args:
        self: The extractor.
        feats: Levels, (1, C, H, W) each.
        rois: (R, 5): image, x1, y1, x2, y2.
        roi_scale_factor: Factor of the sides of the regions, or None.

    Returns:
        (R, C, h, w).
    """
    if len(feats) == 1:
        return self.roi_layers[0](feats[0], rois)
    levels = self.map_roi_levels(rois, len(feats))
    if roi_scale_factor is not None:
        rois = self.roi_rescale(rois, roi_scale_factor)
    size = self.roi_layers[0].output_size
    pooled = feats[0].new_zeros(rois.shape[0], self.out_channels, *size)
    for level, layer in enumerate(self.roi_layers[: len(feats)]):
        indices = (levels == level).nonzero()[:, 0]
        pooled = pooled.index_put((indices,), layer(feats[level], rois[indices]))
    return pooled


def select_masks(
    self: Any,
    mask_preds: Tensor,
    bboxes: Tensor,
    labels: Tensor,
    *args: Any,
    activate_map: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Return the probabilities of the masks of the labels, (K, 1, h, w), to be pasted later.

    With ``activate_map``, ``mask_preds`` are probabilities, as the heads of a cascade have them.
    """
    if not activate_map:
        mask_preds = mask_preds.sigmoid()
    if self.class_agnostic:
        return mask_preds
    rows = torch.arange(mask_preds.shape[0], device=mask_preds.device)
    return mask_preds[rows, labels][:, None]


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Return the masks of boxes as masks of the image.

    Args:
        masks: Probabilities, (K, 1, h, w).
        boxes: (K, 4), in pixels.
        size: Height and width of the image.
        threshold: Of the probability.

    Returns:
        (K, height, width), bool.
    """
    axes = []
    for axis in (1, 0):
        centers = torch.arange(size[1 - axis], device=boxes.device, dtype=boxes.dtype) + 0.5
        first, last = boxes[:, axis, None], boxes[:, axis + 2, None]
        position = (centers - first) / (last - first) * 2 - 1
        axes.append(torch.where(position.isinf(), torch.zeros_like(position), position))
    y, x = axes
    shape = (boxes.shape[0], *size)
    grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), 3)
    return F.grid_sample(masks, grid, align_corners=False)[:, 0] >= threshold
