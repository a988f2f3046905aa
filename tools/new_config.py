"""Write a config for your own data: `python tools/new_config.py --train-json F --val-json F`."""

import argparse
import os
from pathlib import Path

from mmws.datasets.new_config import new_config
from mmws.engine.cli import one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Check COCO annotation files and write the config that trains on them'
    )
    parser.add_argument('--train-json', required=True, help='COCO instances file to train on')
    parser.add_argument('--val-json', required=True, help='COCO instances file to evaluate on')
    parser.add_argument(
        '--img-dirs',
        nargs='+',
        metavar='DIR',
        help='folders of the training and validation images, or one for both (default: look for '
        'them near the annotation files)',
    )
    parser.add_argument(
        '--base',
        default=str(Path(os.path.relpath(__file__)).parents[1] / 'configs/mask_rcnn_r50_gnws.py'),
        help='config to inherit from, a file or mmdet::folder/name.py (default: %(default)s)',
    )
    parser.add_argument(
        '--images-per-gpu', type=int, default=1, help='batch size of a GPU (default: %(default)s)'
    )
    parser.add_argument(
        '--out', default='configs/my_data.py', help='file to write (default: %(default)s)'
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument('--epochs', type=int, help='length (default: by the number of images)')
    length.add_argument('--iters', type=int, help='length, for a base that counts iterations')
    parser.add_argument('--force', action='store_true', help='overwrite the output file')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_line_errors():
        written = new_config(**vars(args))
    print(written.summary())


if __name__ == '__main__':
    main()
