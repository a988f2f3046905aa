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

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.data import Data
from torch_geometric.datasets import ModelNet
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import NormalizeScale, SamplePoints

import mmws
from mmws.point_clouds import DGCNN, SOLIDS, sample_solids

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
        clouds, labels = sample_solids(args.clouds, args.points, args.seed)
        scale, num_classes = NormalizeScale(), len(SOLIDS)
        data = [scale(Data(pos=pos, y=y[None])) for pos, y in zip(clouds, labels)]
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
