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
from mmws.files import replacing

from .drawing import draw, make_visualizer

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample

_CELL = 640  # longer side of a sample on the sheet, in pixels
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
    pipelines = (d.get('pipeline') or () for _, d in datasets(dataset_cfg, wrappers=True))
    normalize = next((t for steps in pipelines for t in steps if kind(t) == 'Normalize'), None)

    sheet = _Sheet(len(chosen))
    for index in tqdm(sorted(chosen.tolist()), desc='samples', disable=None):
        packed = dataset[index]
        if not isinstance(packed.get('inputs'), torch.Tensor) or packed['inputs'].dim() != 3:
            raise ValueError('a training sample of the config is not one image: it cannot be drawn')
        sample = packed['data_samples']
        image = _image(packed['inputs'], normalize)
        sheet.add(draw(visualizer, image, sample), _title(sample, image))
    with replacing(Path(out)) as draft:
        sheet.picture.save(draft)
    return len(chosen)


def _image(inputs: torch.Tensor, normalize: dict | None) -> np.ndarray:
    """Return RGB, uint8, of shape (H, W, 3), of the network's input, (C, H, W)."""
    image = inputs.permute(1, 2, 0).numpy()  # BGR, as MMCV reads it
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
    """A grid of pictures with a line of text below each."""

    def __init__(self, count: int) -> None:
        self.columns = math.ceil(math.sqrt(count))
        rows = math.ceil(count / self.columns)
        self.size = _CELL + _GAP, _CELL + _TITLE
        self.picture = Image.new(
            'RGB', (self.columns * self.size[0] + _GAP, rows * self.size[1] + _GAP), 'white'
        )
        self.count = 0

    def add(self, image: np.ndarray, title: str) -> None:
        row, column = divmod(self.count, self.columns)
        left, top = column * self.size[0] + _GAP, row * self.size[1] + _GAP
        cell = ImageOps.contain(Image.fromarray(image), (_CELL, _CELL))
        self.picture.paste(cell, (left, top))
        below = left, top + cell.height + 2
        font = ImageFont.load_default(_TITLE * 2 // 3)
        pen = ImageDraw.Draw(self.picture)
        name, space, rest = title.rpartition('  ')
        while name and pen.textlength(title, font) > _CELL:
            # The end of a long file name tells more than its beginning.
            name = name[1:]
            title = f'…{name}{space}{rest}'
        pen.text(below, title, 'black', font)
        self.count += 1
