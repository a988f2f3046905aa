"""Draw training samples after augmentation: `python tools/browse.py CONFIG [--out sheet.png]`."""

import argparse

import mmws  # noqa: F401
from mmws.config import load_config
from mmws.engine import cli
from mmws.engine.quiet import quiet_stack
from mmws.visualization.browse import browse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write a contact sheet of training samples with masks, boxes and class names'
    )
    parser.add_argument('config', help='config file, or mmdet::folder/name.py')
    parser.add_argument('--num', type=int, default=16, help='samples; default: %(default)s')
    parser.add_argument('--out', default='sheet.png', help='image file; default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='other samples; default: %(default)s')
    cli.add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with cli.one_line_errors(), quiet_stack():
        count = browse(load_config(args.config, args.cfg_options), args.out, args.num, args.seed)
    print(f'wrote {args.out}: {count} training samples')


if __name__ == '__main__':
    main()
