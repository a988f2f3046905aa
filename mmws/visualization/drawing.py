"""Draw boxes, masks, class names and scores into images, legible whatever their size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from mmcv.image import imrescale
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw, ImageFont

from mmws.data.palette import make_palette

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample

SCORE_THRESHOLD = 0.3  # predictions below it are not drawn
# Pixels; smaller images are enlarged, or labels would hide them, but narrow ones not without end.
_MIN_SIDE, _MAX_SIDE = 600, 4000
_MASK_OPACITY = 0.4
_GAP = 12  # between truth and prediction
_BACKGROUND = (24, 24, 27)
_LONGEST_NAME = 24  # letters


@dataclass
class Painter:
    """What is needed to draw the instances of a data set.

    Attributes:
        dataset_meta: ``classes``, and ``palette`` with an RGB colour for each.
    """

    dataset_meta: dict[str, Any]


def make_visualizer(meta: dict[str, Any]) -> Painter:
    """Return a painter for the classes of a data set.

    Args:
        meta: ``classes``, and by option their ``palette``; one with too few colours is replaced.
    """
    classes, palette = tuple(meta['classes']), meta.get('palette')
    if not isinstance(palette, (list, tuple)) or len(palette) < len(classes):
        palette = make_palette(len(classes))
    return Painter({'classes': classes, 'palette': palette})


def draw(
    painter: Painter,
    image: np.ndarray,
    sample: DetDataSample,
    score_threshold: float = SCORE_THRESHOLD,
) -> np.ndarray:
    """Draw the instances of a sample; with truth and predictions, both side by side with captions.

    Args:
        painter: From :func:`make_visualizer`.
        image: RGB, uint8, of shape (H, W, 3).
        sample: With ``gt_instances``, ``pred_instances`` or both, in the pixels of ``image``.
        score_threshold: Predictions below it are left out.

    Returns:
        RGB, uint8, of shape (s·H, s·W, 3); the integer s ≥ 1 enlarges small images. With both, two
        such pictures beside each other, with a caption above each.
    """
    height, width = image.shape[:2]
    scale = max(1, min(math.ceil(_MIN_SIDE / min(height, width)), _MAX_SIDE // max(height, width)))
    pictures = {}
    for name, field in (('truth', 'gt_instances'), ('prediction', 'pred_instances')):
        if field in sample:
            instances = sample.get(field)
            if field == 'pred_instances':
                instances = instances.cpu()
                instances = instances[instances.scores >= score_threshold]
            pictures[name] = draw_instances(painter, image, instances, scale)
    if len(pictures) < 2:
        return next(iter(pictures.values()), imrescale(np.ascontiguousarray(image), scale))
    return side_by_side(pictures)


def draw_instances(
    painter: Painter, image: np.ndarray, instances: InstanceData, scale: int = 1
) -> np.ndarray:
    """Draw instances into an enlarged image.

    Labels are placed beside their boxes where they cover neither another label nor, if possible,
    another box; small objects are drawn above large ones.

    Args:
        painter: From :func:`make_visualizer`.
        image: RGB, uint8, of shape (H, W, 3).
        instances: With ``labels`` and by option ``bboxes``, ``masks`` and ``scores``.
        scale: Integer factor of the enlargement.

    Returns:
        RGB, uint8, of shape (scale·H, scale·W, 3).
    """
    drawn = np.array(imrescale(np.ascontiguousarray(image), scale))
    if not len(instances):
        return drawn
    labels = instances.labels.tolist()
    colours = [tuple(painter.dataset_meta['palette'][label]) for label in labels]
    masks = _masks(instances)
    boxes = _boxes(instances, masks) * scale
    order = np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).tolist()
    line = max(1, round(min(drawn.shape[:2]) / 400))
    if masks is not None:
        for i in order:
            _tint(drawn, masks[i], colours[i], scale, line)
    for i in order:
        left, top, right, bottom = (round(float(value)) for value in boxes[i])
        cv2.rectangle(drawn, (left, top), (right, bottom), colours[i], line)
    scores = instances.scores.tolist() if 'scores' in instances else [None] * len(labels)
    names = [_shortened(str(painter.dataset_meta['classes'][label])) for label in labels]
    texts = [name if score is None else f'{name} {score:.2f}' for name, score in zip(names, scores)]
    return _write_labels(drawn, boxes, texts, colours)


def side_by_side(pictures: dict[str, np.ndarray]) -> np.ndarray:
    """Return pictures of equal size beside each other, each below its name."""
    height, width = next(iter(pictures.values())).shape[:2]
    font = _font(max(16, round(min(height, width) / 28)))
    caption = font.getbbox('Ag')[3] + 12
    sheet = Image.new('RGB', (len(pictures) * (width + _GAP) - _GAP, height + caption), _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for column, (name, picture) in enumerate(pictures.items()):
        left = column * (width + _GAP)
        pen.text((left + 8, 5), name, 'white', font)
        sheet.paste(Image.fromarray(picture), (left, caption))
    return np.asarray(sheet)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f'{name[: _LONGEST_NAME - 1]}…'


def _masks(instances: InstanceData) -> np.ndarray | None:
    """Return the masks, (N, H, W) bool, ``None`` without them."""
    if 'masks' not in instances:
        return None
    masks = instances.masks
    if not isinstance(masks, torch.Tensor):
        masks = masks.to_tensor(torch.bool, 'cpu')
    return masks.bool().cpu().numpy()


def _boxes(instances: InstanceData, masks: np.ndarray | None) -> np.ndarray:
    """Return the boxes, (N, 4) as x1, y1, x2, y2; around the masks where there are no boxes."""
    if 'bboxes' in instances:
        boxes = instances.bboxes
        boxes = boxes if isinstance(boxes, torch.Tensor) else boxes.tensor
        return boxes.cpu().numpy().astype(np.float64).reshape(-1, 4)
    found = np.zeros((len(instances), 4))
    for i, mask in enumerate(masks if masks is not None else ()):
        ys, xs = np.nonzero(mask)
        if len(xs):
            found[i] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    return found


def _tint(
    drawn: np.ndarray, mask: np.ndarray, colour: tuple[int, ...], scale: int, line: int
) -> None:
    """Tint a mask and draw its outline, in place."""
    ys, xs = np.nonzero(mask)
    if not len(xs):
        return
    top, bottom, left, right = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    small = mask[top:bottom, left:right].astype(np.uint8)
    part = cv2.resize(small, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    window = drawn[top * scale : bottom * scale, left * scale : right * scale]
    inside = part.astype(bool)
    mixed = (1 - _MASK_OPACITY) * window[inside] + _MASK_OPACITY * np.array(colour)
    window[inside] = mixed.astype(np.uint8)
    contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    offset = (int(left) * scale, int(top) * scale)
    cv2.drawContours(drawn, contours, -1, colour, line, offset=offset)


def _write_labels(
    drawn: np.ndarray, boxes: np.ndarray, texts: list[str], colours: list[tuple[int, ...]]
) -> np.ndarray:
    height, width = drawn.shape[:2]
    # By the longer side, which decides how much a sheet or a page shrinks the picture. Crowded
    # pictures get smaller letters, but none below 12 pixels.
    font = _font(max(12, round(max(height, width) / (42 if len(texts) < 25 else 60))))
    picture = Image.fromarray(drawn)
    pen = ImageDraw.Draw(picture)
    taken: list[tuple[float, float, float, float]] = []
    for i in np.argsort(boxes[:, 1]).tolist():
        text, colour = texts[i], colours[i]
        w = pen.textlength(text, font) + 6
        h = font.getbbox('Ag')[3] + 4
        left, top, right, bottom = boxes[i]
        # Above, below, inside at the top, to the right: the first place that is free.
        places = [(left, top - h), (left, bottom), (left, top), (right, top), (right - w, top - h)]
        places = [
            (min(max(x, 0), max(width - w, 0)), min(max(y, 0), max(height - h, 0)))
            for x, y in places
        ]
        free = [(x, y) for x, y in places if not _covers((x, y, x + w, y + h), taken)]
        if not free and len(texts) > 12:
            continue  # a label in a crowd that would hide others; the colour tells the class
        x, y = free[0] if free else places[0]
        taken.append((x, y, x + w, y + h))
        pen.rectangle((x, y, x + w, y + h), fill=colour)
        dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
        pen.text((x + 3, y + 1), text, 'black' if dark else 'white', font)
    return np.array(picture)


def _covers(
    box: tuple[float, float, float, float], others: list[tuple[float, float, float, float]]
) -> bool:
    return any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
        for other in others
    )
