"""Say what a training needs in memory: `python tools/memory.py CONFIG [--size 800 1344]`."""

import argparse

import mmws  # noqa: F401
from mmws.config import load_config
from mmws.engine import cli
from mmws.engine.memory import measure_memory
from mmws.engine.quiet import quiet_stack


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure what a training step keeps in memory, by training steps on the CPU, '
        'and estimate how many images fit GPUs'
    )
    parser.add_argument('config', help='config file, or mmdet::folder/name.py')
    parser.add_argument(
        '--size', type=int, nargs=2, default=(800, 1344), metavar=('HEIGHT', 'WIDTH'),
        help='of the images, in pixels; default: 800 1344',
    )  # fmt: skip
    parser.add_argument('--amp', action='store_true', help='as with automatic mixed precision')
    cli.add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with cli.one_line_errors(), quiet_stack():
        cfg = load_config(args.config, args.cfg_options)
        report = measure_memory(cfg, args.size[0], args.size[1], args.amp)
    print(report)


if __name__ == '__main__':
    main()
