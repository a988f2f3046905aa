r"""Classify point clouds with DGCNN, in PyTorch Geometric, with BN or GN and with or without WS.

    pip install "mmws[pyg]"
    python examples/modelnet40_dgcnn.py --norm GN --ws                    # solids made here
    python examples/modelnet40_dgcnn.py --norm GN --ws --data data/modelnet40 \
        --width 64 --points 1024 --neighbours 20 --batch-size 32 --epochs 250

ModelNet40 is downloaded to the folder of `--data` by PyTorch Geometric. Without it the clouds are
points on the surfaces of eight solids, stretched and turned at random.
DGCNN (arXiv 1801.07829) is made of linear layers: WS standardizes their rows. GN normalizes the
channels of each edge, point and cloud by itself, where the paper's takes all edges of a cloud.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.datasets import ModelNet
from torch_geometric.loader import DataLoader
from torch_geometric.nn import MLP, EdgeConv, global_max_pool
from torch_geometric.transforms import NormalizeScale, SamplePoints

import mmws

parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
parser.add_argument('--data', help='folder of ModelNet40; solids made here without it')
parser.add_argument('--norm', choices=['BN', 'GN'], default='GN')
parser.add_argument('--ws', action='store_true', help='Weight Standardization')
parser.add_argument('--points', type=int, default=256, help='of a cloud')
parser.add_argument('--clouds', type=int, default=400, help='of the solids, a fifth for the test')
parser.add_argument('--neighbours', type=int, default=10, help='of each point, with itself')
parser.add_argument('--width', type=int, default=32, help='channels of the first layer')
parser.add_argument('--epochs', type=int, default=10)
parser.add_argument('--batch-size', type=int, default=8, help='BN needs two clouds at least')
parser.add_argument('--lr', type=float, default=0.001)
parser.add_argument('--seed', type=int, default=0)
parser.add_argument('--out', default='dgcnn.pth', help='file for the trained weights')


class DGCNN(nn.Module):
    """Two edge convolutions on neighbours in feature space, a maximum over points, an MLP."""

    def __init__(self, num_classes: int, neighbours: int, width: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.conv1 = EdgeConv(MLP([6, width, width, width], plain_last=False), aggr='max')
        self.conv2 = EdgeConv(MLP([2 * width, 2 * width], plain_last=False), aggr='max')
        self.points = MLP([3 * width, 16 * width], plain_last=False)
        self.head = MLP([16 * width, 8 * width, 4 * width, num_classes], dropout=0.5)

    def forward(self, pos: Tensor, batch: Tensor) -> Tensor:
        """Return scores (clouds, classes) of points (clouds * N, 3), N of each cloud."""
        first = self.conv1(pos, self.edges(pos, batch))
        second = self.conv2(first, self.edges(first, batch))
        points = self.points(torch.cat([first, second], dim=1))
        return self.head(global_max_pool(points, batch))

    def edges(self, features: Tensor, batch: Tensor) -> Tensor:
        """Return (2, edges) from the nearest points of its cloud to each point."""
        clouds = features.detach().unflatten(0, (int(batch.max()) + 1, -1))  # [clouds, N, C]
        count = min(self.neighbours, clouds.shape[1])
        nearest = torch.cdist(clouds, clouds).topk(count, largest=False).indices
        first = clouds.shape[1] * torch.arange(len(clouds), device=features.device)
        sources = (nearest + first[:, None, None]).flatten()
        targets = torch.arange(len(features), device=features.device)
        return torch.stack([sources, targets.repeat_interleave(count)])


def solids(clouds: int, points: int, seed: int) -> list[Data]:
    """Return clouds of points on eight solids, one after another."""
    from trimesh import creation
    from trimesh.sample import sample_surface

    makers = (
        lambda: creation.icosphere(subdivisions=3, radius=0.5),
        lambda: creation.box((1, 1, 1)),
        lambda: creation.cylinder(radius=0.5, height=1),
        lambda: creation.cone(radius=0.5, height=1),
        lambda: creation.cone(radius=0.7, height=1, sections=4),  # a pyramid
        lambda: creation.torus(major_radius=0.35, minor_radius=0.15),
        lambda: creation.capsule(height=0.5, radius=0.25),
        lambda: creation.annulus(r_min=0.3, r_max=0.5, height=0.6),
    )
    meshes = [make() for make in makers]
    random, scale, data = np.random.default_rng(seed), NormalizeScale(), []
    for i in range(clouds):
        label = i % len(meshes)
        found, _ = sample_surface(meshes[label], points, seed=int(random.integers(2**31)))
        found = np.asarray(found) * random.uniform(0.7, 1.3, size=3)
        cos, sin = np.cos(angle := random.uniform(0, 2 * np.pi)), np.sin(angle)
        found = found @ [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]  # upright, as in ModelNet
        cloud = Data(pos=torch.tensor(found, dtype=torch.float32), y=torch.tensor([label]))
        data.append(scale(cloud))
    return data


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader, num_classes: int) -> tuple[float, float]:
    """Return the part of the clouds that is classified right, and the mean of it over classes."""
    right, total = torch.zeros(num_classes), torch.zeros(num_classes)
    device = next(model.parameters()).device
    for batch in loader:
        best = model.eval()(batch.pos.to(device), batch.batch.to(device)).argmax(1).cpu()
        right += torch.bincount(batch.y[best == batch.y], minlength=num_classes)
        total += torch.bincount(batch.y, minlength=num_classes)
    present = total > 0
    return (right.sum() / total.sum()).item(), (right / total)[present].mean().item()


def main() -> None:
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if args.data:
        transforms = dict(pre_transform=NormalizeScale(), transform=SamplePoints(args.points))
        train, test = (ModelNet(args.data, '40', split, **transforms) for split in (True, False))
        num_classes = train.num_classes
    else:
        data, num_classes = solids(args.clouds, args.points, args.seed), 8
        train, test = data[: -len(data) // 5], data[-len(data) // 5 :]
    # BN cannot normalize the one cloud that an epoch may leave over.
    loader = DataLoader(train, args.batch_size, shuffle=True, drop_last=True)
    test_loader = DataLoader(test, args.batch_size)

    model = DGCNN(num_classes, args.neighbours, args.width)
    first = next(iter(test_loader))
    conv, norm = 'WS' if args.ws else None, None if args.norm == 'BN' else args.norm
    model = mmws.convert(model, conv, norm, inputs=(first.pos, first.batch)).to(device)
    print(model.conversion_report.summary())

    optimizer = torch.optim.Adam(model.parameters(), args.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(loader))
    for epoch in range(args.epochs):
        for batch in loader:
            scores = model.train()(batch.pos.to(device), batch.batch.to(device))
            loss = F.cross_entropy(scores, batch.y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        overall, by_class = evaluate(model, test_loader, num_classes)
        print(f'epoch {epoch + 1}: loss {loss.item():.3f}, accuracy {overall:.3f}')
    print(f'overall accuracy {overall:.3f}, mean over classes {by_class:.3f}')

    # Plain layers of PyTorch Geometric with the weights that the model computed with.
    torch.save(mmws.fold(model).state_dict(), args.out)


if __name__ == '__main__':
    main()
