"""Check a data set and write the config that trains on it.

python tools/new_config.py DATA                            COCO, VOC, YOLO, LabelMe or CVAT
python tools/new_config.py --train-json F --val-json F     COCO format
python tools/new_config.py --voc ROOT [--classes ...]      VOC format
"""

import argparse

from mmws.data.new_config import BOX_BASE, MASK_BASE, new_config
from mmws.data.voc import read_class_names
from mmws.engine.cli import as_options, one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Check a data set and write the config that trains on it'
    )
    data = parser.add_argument_group('data')
    data.add_argument(
        'data',
        nargs='?',
        help='file or folder in COCO, VOC, YOLO, LabelMe or CVAT format, which is recognized',
    )
    data.add_argument('--train-json', help='COCO instances file to train on')
    data.add_argument('--val-json', help='COCO instances file to evaluate on')
    data.add_argument(
        '--img-dirs',
        nargs='+',
        metavar='DIR',
        help='folders of the training and validation images, or one for both (default: look for '
        'them near the annotation files)',
    )
    data.add_argument(
        '--voc',
        metavar='ROOT',
        help='instead of the files: a tree in the layout of PASCAL VOC, the folder that holds '
        'JPEGImages; its splits are converted to COCO files in ROOT/annotations',
    )
    data.add_argument(
        '--splits',
        nargs=2,
        default=['train', 'val'],
        metavar=('TRAIN', 'VAL'),
        help='lists of --voc to train and to evaluate on (default: train val)',
    )
    data.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='class names of --voc, in the order of their labels where there are masks, or a file '
        'with one a line (default: the 20 of VOC, or those that its XML files name)',
    )
    split = parser.add_argument_group('split')
    split.add_argument(
        '--val-fraction',
        type=float,
        metavar='F',
        help='fraction of the images to evaluate on where there is no split; 0: no evaluation '
        '(default: 0.2 for DATA)',
    )
    split.add_argument('--seed', type=int, default=0, help='of the split (default: %(default)s)')
    split.add_argument(
        '--group-by',
        metavar='REGEX',
        help='keep images on one side of the split whose names have the same first group of this '
        'regular expression; "folder" for those of one folder',
    )
    checks = parser.add_argument_group('checks')
    checks.add_argument(
        '--fix',
        action='store_true',
        help='correct what can be corrected, in new files, and list the changes',
    )
    checks.add_argument(
        '--check-images', action='store_true', help='decode all images (default: a sample of 200)'
    )
    checks.add_argument(
        '--raw-images',
        action='store_true',
        help='read images with all of their bits and channels, as many as the files have; mean and '
        'standard deviation are measured (default: 8 bits of red, green and blue)',
    )
    checks.add_argument(
        '--keep-empty', action='store_true', help='train on images without objects too'
    )
    model = parser.add_argument_group('model and training')
    what = model.add_mutually_exclusive_group()
    what.add_argument(
        '--masks', action='store_true', default=None, help='train masks (default: if there are any)'
    )
    what.add_argument('--boxes', dest='masks', action='store_false', help='train boxes alone')
    model.add_argument(
        '--base',
        help=f'config to inherit from, a file or mmdet::folder/name.py (default: {MASK_BASE}, '
        f'or {BOX_BASE} for boxes)',
    )
    model.add_argument(
        '--narrow',
        action='store_true',
        help='take the narrow ResNet-18 as base, which learns small images from scratch, also on '
        'a CPU',
    )
    model.add_argument(
        '--from',
        '--start',
        dest='start',
        metavar='WEIGHTS',
        help='file or URL to start from, or "none" (default: the published COCO detector with the '
        "base's layers, where there is one)",
    )
    model.add_argument(
        '--images-per-gpu', type=int, default=1, help='batch size of a GPU (default: %(default)s)'
    )
    length = model.add_mutually_exclusive_group()
    length.add_argument('--epochs', type=int, help='length (default: by the number of images)')
    length.add_argument('--iters', type=int, help='length, for a base that counts iterations')
    parser.add_argument(
        '--out', default='configs/my_data.py', help='file to write (default: %(default)s)'
    )
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
