"""Classification of small images and of sequences: data, model and metric of a study's tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmws.registry import DATASETS, METRICS, MODELS

MODELS.register_module('LSTM', module=nn.LSTM)

_TEST_PART = 5  # one image of so many is a test image


def load_digit_images(split: str) -> tuple[Tensor, Tensor]:
    """Return images (N, 8, 8) of :func:`sklearn.datasets.load_digits`, and their labels (N).

    Args:
        split: ``'test'`` for every fifth digit, ``'train'`` for the others.

    Returns:
        The images, float32, whole numbers from 0 to 16; and the labels, int64, 0 to 9.

    Raises:
        ImportError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError('the digits need scikit-learn: `pip install "mmws[demo]"`') from None
    digits = load_digits()
    is_test = np.arange(len(digits.target)) % _TEST_PART == 0
    chosen = is_test if split == 'test' else ~is_test
    return torch.from_numpy(digits.images[chosen]).float(), torch.from_numpy(digits.target[chosen])


@DATASETS.register_module()
class DigitImages(Dataset):
    """The 1797 handwritten digits of :func:`sklearn.datasets.load_digits`, 8×8 pixels.

    Every fifth digit is a test image, the others are training images. Items are dicts with
    ``inputs``, float32 with zero mean and unit variance over the training images, and ``labels``,
    0 to 9.

    Args:
        split: ``'train'`` or ``'test'``.
        size: Width and height to which images (3, size, size) are enlarged, in pixels. None: items
            are sequences (8, 8) of the rows of the image.

    Raises:
        ImportError: if scikit-learn is not installed.
    """

    def __init__(self, split: str, size: int | None = None) -> None:
        training, _ = load_digit_images('train')
        images, self.labels = load_digit_images(split)
        images = (images - training.mean()) / training.std()
        if size is not None:
            images = F.interpolate(images[:, None], (size, size), mode='bilinear')
            images = images.expand(-1, 3, -1, -1)
        self.images = images

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(inputs=self.images[index], labels=self.labels[index])


@DATASETS.register_module()
class FolderOfImages(Dataset):
    """A folder with a folder of images for each class, as torchvision's ``ImageFolder`` reads it.

    Items are dicts with ``inputs`` (3, size, size), float32 about 0 with deviation about 1, and
    ``labels``, the number of the class by its name.

    Args:
        data_root: The folder.
        size: Width and height to which images are scaled, in pixels.
        flip: Mirror every other image, at random.

    Raises:
        FileNotFoundError: if the folder has no classes.
    """

    def __init__(self, data_root: str | Path, size: int, flip: bool = False) -> None:
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import v2

        steps = [v2.ToImage(), v2.Resize((size, size)), v2.ToDtype(torch.float32, scale=True)]
        steps += [v2.RandomHorizontalFlip(0.5)] if flip else []
        steps += [v2.Normalize([0.5] * 3, [0.25] * 3)]
        self.folder = ImageFolder(str(data_root), v2.Compose(steps))

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = self.folder[index]
        return dict(inputs=image, labels=torch.tensor(label))


@MODELS.register_module()
class Classifier(BaseModel):
    """A network with a linear layer behind it, trained by cross entropy.

    Args:
        backbone: Config of a network. The mean over positions of its (last) output
            (N, channels, H, W) goes to the linear layer; or, from a recurrent layer, the output of
            the last step of (N, steps, channels).
        channels: Of the output of the network.
        num_classes: Number of classes.
    """

    def __init__(self, backbone: dict[str, Any], channels: int, num_classes: int = 10) -> None:
        super().__init__(BaseDataPreprocessor())
        self.backbone = MODELS.build(backbone)
        self.head = nn.Linear(channels, num_classes)

    def scores(self, inputs: Tensor) -> Tensor:
        """Return the scores of the classes, (N, num_classes)."""
        if isinstance(self.backbone, nn.RNNBase):
            return self.head(self.backbone(inputs)[0][:, -1])
        features = self.backbone(inputs)
        if isinstance(features, (tuple, list)):
            features = features[-1]
        return self.head(features.flatten(2).mean(2))

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = 'tensor') -> Any:
        scores = self.scores(inputs)
        if mode == 'tensor' or labels is None:
            return scores
        if mode == 'loss':
            return dict(loss=F.cross_entropy(scores, labels))
        return [
            dict(label=int(label), predicted=int(best))
            for label, best in zip(labels, scores.argmax(1), strict=True)
        ]


@METRICS.register_module()
class Accuracy(BaseMetric):
    """The part of the images whose class has the highest score, from 0 to 1."""

    default_prefix = 'images'

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        self.results += [s['label'] == s['predicted'] for s in data_samples]

    def compute_metrics(self, results: list[bool]) -> dict[str, float]:
        return dict(accuracy=float(np.mean(results)))
