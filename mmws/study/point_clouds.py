"""Classification of point clouds: data and model of a study's task."""

from __future__ import annotations

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmws.point_clouds import DGCNN, SOLIDS, sample_solids
from mmws.registry import DATASETS, MODELS

from .classification import Classifier

_TEST_PART = 5  # one cloud of so many is a test cloud


@DATASETS.register_module()
class SolidClouds(Dataset):
    """Points on the surfaces of eight solids (:func:`mmws.point_clouds.sample_solids`).

    The last fifth are test clouds, the others are training clouds. Items are dicts with
    ``inputs`` (points, 3), float32 with the mean 0 and the largest magnitude 1, and ``labels``.

    Args:
        split: ``'train'`` or ``'test'``.
        clouds: Number of clouds of both splits.
        points: Points of a cloud.
        seed: Of the random numbers.

    Raises:
        ImportError: if trimesh is not installed.
    """

    def __init__(self, split: str, clouds: int = 500, points: int = 256, seed: int = 0) -> None:
        chosen = slice(-clouds // _TEST_PART, None)
        if split == 'train':
            chosen = slice(None, -clouds // _TEST_PART)
        sampled, labels = sample_solids(clouds, points, seed)
        sampled = sampled - sampled.mean(1, keepdim=True)
        self.clouds = (sampled / sampled.abs().amax((1, 2), keepdim=True))[chosen]
        self.labels = labels[chosen]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(inputs=self.clouds[index], labels=self.labels[index])


@MODELS.register_module()
class PointCloudClassifier(Classifier):
    """DGCNN (:class:`mmws.point_clouds.DGCNN`) trained by cross entropy.

    Args:
        num_classes: Number of classes.
        neighbours: Of each point, with itself.
        width: Channels of the first layer.

    Raises:
        ImportError: if PyTorch Geometric is not installed.
    """

    network: nn.Module

    def __init__(
        self, num_classes: int = len(SOLIDS), neighbours: int = 10, width: int = 32
    ) -> None:
        BaseModel.__init__(self, BaseDataPreprocessor())
        self.network = DGCNN(num_classes, neighbours, width)

    def scores(self, inputs: Tensor) -> Tensor:
        """Return the scores of the classes, (N, num_classes), of clouds (N, points, 3)."""
        count, points = inputs.shape[:2]
        cloud = torch.arange(count, device=inputs.device).repeat_interleave(points)
        return self.network(inputs.flatten(0, 1), cloud)
