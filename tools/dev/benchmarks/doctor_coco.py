"""Time `tools/doctor.py` on a COCO-sized annotation file, the first and a second time.

    python tools/dev/benchmarks/doctor_coco.py

makes 118,000 images, all of them links to one, with 860,000 polygons of COCO's 80 classes, and a
narrow config of them. Prints seconds and the most memory of each call.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from mmdet.datasets import CocoDataset

ROOT = Path(__file__).parents[3]
HEIGHT, WIDTH = 480, 640
CONFIG = """
_base_ = {base!r}
train_dataloader = dict(
    dataset=dict(
        data_root={root!r},
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(_delete_=True, classes={classes!r}),
    )
)
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None
model = dict(roi_head=dict(bbox_head=dict(num_classes=80), mask_head=dict(num_classes=80)))
"""


def write_data(folder: Path, images: int, annotations: int) -> None:
    """Write ``train.json`` and one image, to which all file names are links."""
    rng = np.random.default_rng(0)
    (folder / 'images').mkdir(parents=True)
    picture = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / 'images' / 'picture.jpg'), picture)
    records = []
    for i in range(images):
        name = f'{i:012d}.jpg'
        (folder / 'images' / name).symlink_to('picture.jpg')
        records.append(dict(id=i, file_name=name, height=HEIGHT, width=WIDTH))
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    objects = []
    for i in range(annotations):
        radii = rng.uniform(4, 60, 2)
        points = (rng.uniform(61, 400, 2) + unit * radii).round(2)
        low, high = points.min(0), points.max(0)
        objects.append(
            dict(
                id=i + 1,
                image_id=i * images // annotations,
                category_id=int(rng.integers(1, 81)),
                bbox=[*low.tolist(), *(high - low).round(2).tolist()],
                area=round(float(np.pi * radii[0] * radii[1]), 2),
                segmentation=[points.reshape(-1).tolist()],
                iscrowd=0,
            )
        )
    names = CocoDataset.METAINFO['classes']
    categories = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
    contents = dict(images=records, annotations=objects, categories=categories)
    (folder / 'train.json').write_text(json.dumps(contents))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=118_000)
    parser.add_argument('--annotations', type=int, default=860_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # In a process of its own: the peak of a child counts from the memory of its parent.
        spawned = multiprocessing.get_context('spawn').Process(
            target=write_data, args=(folder, args.images, args.annotations)
        )
        spawned.start()
        spawned.join()
        base = str(ROOT / 'configs' / 'mask_rcnn_r18_gnws_narrow.py')
        classes = CocoDataset.METAINFO['classes']
        config = folder / 'config.py'
        config.write_text(CONFIG.format(base=base, root=str(folder), classes=classes))
        print('call     seconds  CPU seconds  peak MiB  status')
        for name in ('first', 'second'):
            begin = time.monotonic()
            command = [sys.executable, str(ROOT / 'tools' / 'doctor.py'), str(config)]
            environment = {**os.environ, 'XDG_CACHE_HOME': str(folder / 'cache')}
            with (folder / 'output.txt').open('w') as output:
                doctor = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
                _, status, usage = os.wait4(doctor.pid, 0)
            seconds, cpu = time.monotonic() - begin, usage.ru_utime + usage.ru_stime
            print(
                f'{name:<7} {seconds:8.1f} {cpu:12.1f} '
                f'{usage.ru_maxrss / 1024:9.0f}  {os.waitstatus_to_exitcode(status)}'
            )
            if status:
                print((folder / 'output.txt').read_text())


if __name__ == '__main__':
    main()
