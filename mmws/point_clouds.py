"""Point clouds: DGCNN of PyTorch Geometric's layers, and clouds of solids to try it on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

SOLIDS = ('sphere', 'box', 'cylinder', 'cone', 'pyramid', 'torus', 'capsule', 'tube')
"""The classes of :func:`sample_solids`."""


class DGCNN(nn.Module):
    """Two edge convolutions on neighbours in feature space, a maximum over points, an MLP.

    `arXiv 1801.07829 <https://arxiv.org/abs/1801.07829>`_, with Batch Normalization.

    Args:
        num_classes: Number of classes.
        neighbours: Of each point, with itself.
        width: Channels of the first layer; those of the others are multiples.

    Raises:
        ImportError: if PyTorch Geometric is not installed.
    """

    def __init__(self, num_classes: int, neighbours: int, width: int) -> None:
        super().__init__()
        try:
            from torch_geometric.nn import MLP, EdgeConv
        except ImportError:
            raise ImportError('DGCNN needs PyTorch Geometric: `pip install "mmws[pyg]"`') from None
        self.neighbours = neighbours
        self.conv1 = EdgeConv(MLP([6, width, width, width], plain_last=False), aggr='max')
        self.conv2 = EdgeConv(MLP([2 * width, 2 * width], plain_last=False), aggr='max')
        self.points = MLP([3 * width, 16 * width], plain_last=False)
        self.head = MLP([16 * width, 8 * width, 4 * width, num_classes], dropout=0.5)

    def forward(self, pos: Tensor, batch: Tensor) -> Tensor:
        """Return the scores of the classes.

        Args:
            pos: Points (clouds * N, 3), N of each cloud, floating point.
            batch: The cloud of each point (clouds * N), int64, in rising order from 0.

        Returns:
            Scores (clouds, num_classes).
        """
        first = self.conv1(pos, self.edges(pos, batch))
        second = self.conv2(first, self.edges(first, batch))
        points = self.points(torch.cat([first, second], dim=1))
        return self.head(self.clouds(points, batch).amax(1))

    @staticmethod
    def clouds(features: Tensor, batch: Tensor) -> Tensor:
        """Return features (clouds * N, C) as (clouds, N, C)."""
        return features.unflatten(0, (int(batch.max()) + 1, -1))

    def edges(self, features: Tensor, batch: Tensor) -> Tensor:
        """Return (2, edges) from the nearest points of its cloud to each point."""
        clouds = self.clouds(features.detach(), batch)
        count = min(self.neighbours, clouds.shape[1])
        nearest = torch.cdist(clouds, clouds).topk(count, largest=False).indices
        first = clouds.shape[1] * torch.arange(len(clouds), device=features.device)
        sources = (nearest + first[:, None, None]).flatten()
        targets = torch.arange(len(features), device=features.device)
        return torch.stack([sources, targets.repeat_interleave(count)])


def sample_solids(clouds: int, points: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sample points on the surfaces of :data:`SOLIDS`, one solid after another.

    Each cloud is stretched at random by 0.7 to 1.3 along each axis and turned about the vertical
    one, as the upright models of ModelNet may be.

    Args:
        clouds: Their number.
        points: Points of a cloud.
        seed: Of the random numbers.

    Returns:
        Points (clouds, points, 3), float32; labels (clouds), int64, places in :data:`SOLIDS`.

    Raises:
        ImportError: if trimesh is not installed.
    """
    try:
        from trimesh import creation
        from trimesh.sample import sample_surface
    except ImportError:
        raise ImportError('the solids need trimesh: `pip install "mmws[pyg]"`') from None
    meshes = [
        creation.icosphere(subdivisions=3, radius=0.5),
        creation.box((1, 1, 1)),
        creation.cylinder(radius=0.5, height=1),
        creation.cone(radius=0.5, height=1),
        creation.cone(radius=0.7, height=1, sections=4),
        creation.torus(major_radius=0.35, minor_radius=0.15),
        creation.capsule(height=0.5, radius=0.25),
        creation.annulus(r_min=0.3, r_max=0.5, height=0.6),
    ]
    random, sampled = np.random.default_rng(seed), []
    labels = torch.arange(clouds) % len(SOLIDS)
    for label in labels.tolist():
        found, _ = sample_surface(meshes[label], points, seed=int(random.integers(2**31)))
        found = np.asarray(found) * random.uniform(0.7, 1.3, size=3)
        cos, sin = np.cos(angle := random.uniform(0, 2 * np.pi)), np.sin(angle)
        found = found @ [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]
        sampled.append(torch.tensor(found, dtype=torch.float32))
    return torch.stack(sampled), labels
