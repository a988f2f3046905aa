"""The example that trains a detector of torchvision without MMDetection."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip('pycocotools')

EXAMPLE = Path(__file__).parents[2] / 'examples' / 'train_torchvision.py'


def write_coco(folder: Path, count: int) -> tuple[str, str]:
    """Write images of one bright square each, and one image without objects."""
    folder.mkdir()
    images, annotations = [], []
    for i in range(count + 1):
        image = Image.new('RGB', (96, 80), (20, 20, 20))
        if i < count:
            x, y = 8 + 6 * i, 10 + 4 * i
            image.paste((220, 60, 60), (x, y, x + 36, y + 30))
            annotations.append(
                dict(
                    id=i + 1, image_id=i, category_id=3, bbox=[x, y, 36, 30], area=1080, iscrowd=0,
                    segmentation=[[x, y, x + 36, y, x + 36, y + 30, x, y + 30]],
                )
            )  # fmt: skip
        image.save(folder / f'{i}.png')
        images.append(dict(id=i, file_name=f'{i}.png', width=96, height=80))
    categories = [dict(id=3, name='square')]
    file = folder / 'instances.json'
    file.write_text(
        json.dumps(dict(info={}, images=images, annotations=annotations, categories=categories))
    )
    return str(folder), str(file)


@pytest.mark.slow
def test_the_example_trains_evaluates_and_writes_plain_weights(tmp_path, monkeypatch, capsys):
    # Bug: the first thing that a user of torchvision tries fails.
    torch.manual_seed(0)
    train, val = write_coco(tmp_path / 'train', 2), write_coco(tmp_path / 'val', 1)
    out = tmp_path / 'detector.pth'
    options = ['--model', 'fasterrcnn_mobilenet_v3_large_320_fpn', '--epochs', '1']
    argv = [str(EXAMPLE), *train, *val, *options, '--out', str(out)]
    monkeypatch.setattr(sys, 'argv', argv)
    runpy.run_path(str(EXAMPLE), run_name='__main__')
    output = capsys.readouterr().out
    assert re.search(r'epoch 1: loss \d', output)
    assert re.search(r'box AP: [01]\.\d', output)
    keys = set(torch.load(out))
    assert not [key for key in keys if 'running_mean' in key]  # no Batch Normalization is left
    assert 'backbone.body.0.0.weight' in keys
