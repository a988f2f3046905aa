"""Report on a training run: `python tools/report.py CONFIG WORK_DIR [--checkpoint CKPT] ...`."""

import argparse

import mmws  # noqa: F401
from mmws.engine import cli
from mmws.engine.quiet import quiet_stack
from mmws.visualization.report import write_report


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write report.html, metrics.md, curves.png and predictions/*.png of a run'
    )
    parser.add_argument('config', help='config file of the run')
    parser.add_argument('work_dir', help='where tools/train.py put its logs and checkpoints')
    parser.add_argument('--checkpoint', help='default: the one that WORK_DIR/last_checkpoint names')
    parser.add_argument('--out', help='folder to write into; default: WORK_DIR/report')
    parser.add_argument(
        '--num-pictures', type=int, default=8, help='test images to draw; default: 8'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with cli.one_line_errors(), quiet_stack():
        out = write_report(
            args.work_dir, args.config, args.checkpoint, args.out, num_pictures=args.num_pictures
        )
    print((out / 'metrics.md').read_text(encoding='utf-8'))
    pictures = ' and predictions/' if args.num_pictures > 0 else ''
    print(f'wrote report.html, metrics.md, curves.png{pictures} to {out}')


if __name__ == '__main__':
    main()
