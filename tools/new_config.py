"""Write a config for your own data.

python tools/new_config.py --train-json F --val-json F     COCO format
python tools/new_config.py --voc ROOT [--classes ...]      VOC format
"""

import argparse

from mmws.data.new_config import BOX_BASE, MASK_BASE, new_config
from mmws.data.voc import read_class_names
from mmws.engine.cli import as_options, one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Check COCO or VOC annotations and write the config that trains on them'
    )
    parser.add_argument('--train-json', help='COCO instances file to train on')
    parser.add_argument('--val-json', help='COCO instances file to evaluate on')
    parser.add_argument(
        '--img-dirs',
        nargs='+',
        metavar='DIR',
        help='folders of the training and validation images, or one for both (default: look for '
        'them near the annotation files)',
    )
    parser.add_argument(
        '--voc',
        metavar='ROOT',
        help='instead of the files: a tree in the layout of PASCAL VOC, the folder that holds '
        'JPEGImages; its splits are converted to COCO files in ROOT/annotations',
    )
    parser.add_argument(
        '--splits',
        nargs=2,
        default=['train', 'val'],
        metavar=('TRAIN', 'VAL'),
        help='lists of --voc to train and to evaluate on (default: train val)',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='class names of --voc, in the order of their labels where there are masks, or a file '
        'with one a line (default: the 20 of VOC)',
    )
    parser.add_argument(
        '--base',
        help=f'config to inherit from, a file or mmdet::folder/name.py (default: {MASK_BASE}, '
        f'or {BOX_BASE} for --voc without masks)',
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
        args.classes = read_class_names(args.classes)
        written = new_config(**vars(args))
    print(as_options(written.summary()))


if __name__ == '__main__':
    main()
