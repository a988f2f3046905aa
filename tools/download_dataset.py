"""Download data sets: `python tools/download_dataset.py coco2017 [voc2007 ...] [--root data]`."""

import argparse

import mmws.engine  # noqa: F401  (first, as it says what to install)
from mmws.data.download import DATASETS, download
from mmws.engine.cli import one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Download data sets, or go on with it, and lay them out as MMDetection does'
    )
    parser.add_argument(
        'names',
        nargs='+',
        choices=list(DATASETS),
        metavar='NAME',
        help=f'one or more of {", ".join(DATASETS)}',
    )
    parser.add_argument('--root', default='data', help='folder of all data; default: %(default)s')
    parser.add_argument(
        '--keep-archives', action='store_true', help='leave them in ROOT/downloads when done'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_line_errors(ValueError, OSError):
        download(args.names, args.root, args.keep_archives)
    print(f'{", ".join(args.names)}: complete in {args.root}')


if __name__ == '__main__':
    main()
