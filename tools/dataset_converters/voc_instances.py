"""Write a VOC or SBD tree as COCO files.

python tools/dataset_converters/voc_instances.py ROOT [--splits ...] [--classes ...] [--boxes]
"""

import argparse

import mmws.engine  # noqa: F401  (first, as it says what to install)
from mmws.data.voc import convert_voc, read_class_names
from mmws.engine.cli import as_options, one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Check a tree in the layout of PASCAL VOC or SBD and write its splits as COCO '
        'files, with exact instance masks where there are any'
    )
    parser.add_argument('root', help='folder that holds JPEGImages (VOC), or img and inst (SBD)')
    parser.add_argument(
        '--splits',
        nargs='+',
        default=['train', 'val'],
        help='lists in ImageSets/Segmentation, ImageSets/Main for boxes (default: train val)',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='class names in the order of their labels, or a file with one a line (default: the '
        '20 of VOC)',
    )
    parser.add_argument(
        '--boxes',
        action='store_true',
        default=None,
        help='boxes only, of Annotations (default: where there are no masks)',
    )
    parser.add_argument('--out', help='folder for the files (default: ROOT/annotations)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_line_errors():
        classes = read_class_names(args.classes)
        reports = convert_voc(args.root, args.splits, classes, args.boxes, args.out)
    print(as_options('\n\n'.join(report.text() for report in reports)))


if __name__ == '__main__':
    main()
