"""Train a detector of torchvision with WS and GN on data in COCO format, without MMDetection.

    pip install mmws pycocotools
    python examples/train_torchvision.py train2017 instances_train2017.json \
        val2017 instances_val2017.json

Batches of one or two images suffice: neither WS nor GN computes statistics over the batch.
"""

import argparse

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models import get_model
from torchvision.ops import box_convert
from torchvision.transforms import v2

import mmws

parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
parser.add_argument('train_images', help='folder of the training images')
parser.add_argument('train_json', help='their annotations in COCO format')
parser.add_argument('val_images', help='folder of the validation images')
parser.add_argument('val_json', help='their annotations')
parser.add_argument('--model', default='fasterrcnn_resnet50_fpn_v2', help='of torchvision')
parser.add_argument('--epochs', type=int, default=12)
parser.add_argument('--batch-size', type=int, default=2)
parser.add_argument('--lr', type=float, default=0.005)
parser.add_argument('--out', default='detector.pth', help='file for the trained weights')


def load(images: str, annotations: str, flip: float) -> CocoDetection:
    """Return a data set of images (3, H, W) in [0, 1] and targets."""
    transforms = [v2.ToImage(), v2.RGB(), v2.ToDtype(torch.float32, scale=True)]
    transforms += [v2.RandomHorizontalFlip(flip)]
    dataset = CocoDetection(images, annotations, transforms=v2.Compose(transforms))
    keys = ('image_id', 'boxes', 'labels', 'iscrowd')
    return wrap_dataset_for_transforms_v2(dataset, target_keys=keys)


def objects(target: dict) -> dict:
    """Return boxes (N, 4) and labels (N) without crowds and boxes below one pixel."""
    sides = target['boxes'][:, 2:] - target['boxes'][:, :2]
    kept = (sides >= 1).all(1) & (torch.tensor(target['iscrowd']) == 0)
    return dict(boxes=target['boxes'][kept], labels=target['labels'][kept])


@torch.no_grad()
def evaluate(model: torch.nn.Module, dataset: CocoDetection, truth: COCO) -> float:
    """Return the average precision of boxes, after printing COCO's table."""
    results = []
    device = next(model.parameters()).device
    for image, target in dataset:
        found = model.eval()([image.to(device)])[0]
        boxes = box_convert(found['boxes'], 'xyxy', 'xywh').tolist()
        for box, label, score in zip(boxes, found['labels'].tolist(), found['scores'].tolist()):
            results += [dict(image_id=target['image_id'], bbox=box, category_id=label, score=score)]
    if not results:
        return 0.0
    evaluation = COCOeval(truth, truth.loadRes(results), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def main() -> None:
    args = parser.parse_args()
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    truth = COCO(args.train_json)
    train, val = (
        load(args.train_images, args.train_json, 0.5),
        load(args.val_images, args.val_json, 0),
    )
    with_objects = [
        i for i, id in enumerate(sorted(truth.imgs)) if truth.getAnnIds(id, iscrowd=False)
    ]
    loader = DataLoader(
        Subset(train, with_objects),
        args.batch_size,
        shuffle=True,
        collate_fn=lambda batch: zip(*batch),
    )

    # Labels are the category ids of the file; 0 is the background.
    num_classes = max(truth.cats) + 1
    model = get_model(args.model, weights=None, weights_backbone=None, num_classes=num_classes)
    model = mmws.convert(model, conv='WS', norm='GN').to(device)
    print(model.conversion_report.summary())

    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(loader))
    for epoch in range(args.epochs):
        for images, targets in loader:
            targets = [{k: v.to(device) for k, v in objects(t).items()} for t in targets]
            losses = model.train()([image.to(device) for image in images], targets)
            optimizer.zero_grad()
            loss = sum(losses.values())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
            optimizer.step()
            schedule.step()
        print(f'epoch {epoch + 1}: loss {loss.item():.3f}')
    print(f'box AP: {evaluate(model, val, COCO(args.val_json)):.3f}')

    # Plain layers of torchvision with the weights that the converted ones computed with.
    torch.save(mmws.fold(model).state_dict(), args.out)


if __name__ == '__main__':
    main()
