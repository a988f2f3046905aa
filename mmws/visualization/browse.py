"""A contact sheet of training samples, as the network gets them after augmentation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from PIL import Image, ImageDraw, ImageFont, ImageOps
from tqdm import tqdm

from mmws.config.tree import datasets, kind
from mmws.data.preflight import check_data
from mmws.data.raw_images import reads_raw, viewable
from mmws.files import replacing

from .drawing import draw, make_visualizer

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample

# Longer side of a sample on the sheet, in pixels: more where objects are small, up to a limit.
_CELL, _MAX_CELL = 640, 1600
_SMALL_OBJECT = 24  # side that small objects get, in pixels, as far as the limits allow
_MAX_PIXELS = 40e6  # of the sheet, unless it has very many samples
_TITLE = 28  # height of the line below it
_GAP = 8


def browse(cfg: Config, out: str | Path, num_samples: int = 16, seed: int = 0) -> int:
    """Draw training samples with their masks, boxes and class names onto one sheet.

    Samples are drawn at random, each once, and go through the whole pipeline of the config, mixes
    of several images included. Normalization alone is undone, if the pipeline has it.

    Args:
        cfg: With ``train_dataloader.dataset``.
        out: Image file to write.
        num_samples: At most so many.
        seed: Of the choice and of the augmentation; the same seed gives the same sheet.

    Returns:
        The number of samples on the sheet.

    Raises:
        ValueError: if the config trains on something else than images with boxes, or data are
            not where it says.
    """
    dataset_cfg = (cfg.get('train_dataloader') or {}).get('dataset')
    if not dataset_cfg:
        raise ValueError('the config has no train_dataloader.dataset')
    if num_samples < 1:
        raise ValueError(f'at least 1 sample must be drawn, got {num_samples}')
    Image.init()
    if Path(out).suffix.lower() not in Image.EXTENSION:
        raise ValueError(f'{out}: the name must end in that of an image format, such as .png')
    check_data(cfg, splits=('train',))
    from mmdet.registry import DATASETS

    init_default_scope(cfg.get('default_scope') or 'mmdet')
    dataset = DATASETS.build(dataset_cfg)
    visualizer = make_visualizer(dataset.metainfo)
    set_random_seed(seed)
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:num_samples]
    pipelines = [d.get('pipeline') or () for _, d in datasets(dataset_cfg, wrappers=True)]
    raw = any(map(reads_raw, pipelines))
    normalize = next((t for steps in pipelines for t in steps if kind(t) == 'Normalize'), None)

    sheet = _Sheet()
    for index in tqdm(sorted(chosen.tolist()), desc='samples', disable=None):
        packed = dataset[index]
        if not isinstance(packed.get('inputs'), torch.Tensor) or packed['inputs'].dim() != 3:
            raise ValueError('a training sample of the config is not one image: it cannot be drawn')
        sample = packed['data_samples']
        image = _image(packed['inputs'], normalize, raw)
        sheet.add(
            draw(visualizer, image, sample), _title(sample, image), _small_part(sample, image)
        )
    with replacing(Path(out)) as draft:
        sheet.render().save(draft)
    return len(chosen)


def _image(inputs: torch.Tensor, normalize: dict | None, raw: bool) -> np.ndarray:
    """Return RGB, uint8, of shape (H, W, 3), of the network's input, (C, H, W)."""
    image = inputs.permute(1, 2, 0).numpy()  # BGR, as MMCV reads it
    if raw:
        return np.ascontiguousarray(viewable(image)[..., ::-1])
    if normalize is not None:
        image = image * np.asarray(normalize['std']) + np.asarray(normalize['mean'])
    if normalize is None or not normalize.get('to_rgb', True):
        image = image[..., ::-1]
    if image.shape[2] == 1:
        image = image.repeat(3, axis=2)
    return np.ascontiguousarray(image.round().clip(0, 255).astype(np.uint8))


def _title(sample: DetDataSample, image: np.ndarray) -> str:
    height, width = image.shape[:2]
    name = Path(sample.metainfo.get('img_path') or '').name
    return f'{name}  {width}x{height}, {len(sample.gt_instances)} objects'.strip()


class _Sheet:
    """A grid of pictures with a line of text below each, as large as small objects need."""

    def __init__(self) -> None:
        self._cells: list[tuple[Image.Image, str]] = []
        self._small = 1.0  # side of a small object, as a part of the longer side of its picture

    def add(self, image: np.ndarray, title: str, small: float) -> None:
        """Add a picture.

        Args:
            image: RGB, uint8, of shape (H, W, 3).
            title: Text for below it.
            small: Side of its small objects, as a part of its longer side.
        """
        self._cells.append((ImageOps.contain(Image.fromarray(image), (_MAX_CELL,) * 2), title))
        self._small = min(self._small, small)

    def render(self) -> Image.Image:
        count = len(self._cells)
        shapes = np.array([picture.size for picture, _ in self._cells], np.float64)
        shapes /= shapes.max(1, keepdims=True)
        most = math.sqrt(_MAX_PIXELS / shapes.prod(1).sum())
        side = round(min(max(_SMALL_OBJECT / self._small, _CELL), _MAX_CELL, max(most, _CELL)))
        width, height = (side * shapes.max(0)).round().astype(int).tolist()
        # As many columns as make the sheet most like a square.
        cell_width, cell_height = width + _GAP, height + _TITLE
        columns = min(
            range(1, count + 1),
            key=lambda n: abs(math.log(n * cell_width / (math.ceil(count / n) * cell_height))),
        )
        # A row is as high as its highest picture.
        heights = (side * shapes[:, 1]).round().astype(int)
        below = [int(heights[i : i + columns].max()) + _TITLE for i in range(0, count, columns)]
        tops = [_GAP + sum(below[:row]) for row in range(len(below) + 1)]
        sheet = Image.new('RGB', (columns * cell_width + _GAP, tops[-1]), 'white')
        font = ImageFont.load_default(_TITLE * 2 // 3)
        pen = ImageDraw.Draw(sheet)
        for index, (picture, title) in enumerate(self._cells):
            row, column = divmod(index, columns)
            left, top = column * cell_width + _GAP, tops[row]
            cell = ImageOps.contain(picture, (side, side))
            sheet.paste(cell, (left, top))
            name, space, rest = title.rpartition('  ')
            while name and pen.textlength(title, font) > width:
                # The end of a long file name tells more than its beginning.
                name = name[1:]
                title = f'…{name}{space}{rest}'
            pen.text((left, top + cell.height + 2), title, 'black', font)
        return sheet


def _small_part(sample: DetDataSample, image: np.ndarray) -> float:
    """Return the side of the objects of a sample, percentile 25, as a part of the longer side."""
    boxes = sample.gt_instances.get('bboxes')
    if boxes is None or not len(boxes):
        return 1.0
    boxes = boxes if isinstance(boxes, torch.Tensor) else boxes.tensor
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).prod(1).sqrt()
    return float(sides.quantile(0.25)) / max(image.shape[:2])
