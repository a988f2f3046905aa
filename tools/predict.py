"""Predict on images and videos: `python tools/predict.py IMAGES... --config C --checkpoint K`."""

import argparse
import sys

import mmws  # noqa: F401
from mmws.engine import cli
from mmws.engine.quiet import quiet_stack
from mmws.visualization.predict import SCORE_THRESHOLD, find_inputs, load_detector, predict


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw what a detector finds, and write it to predictions.json in COCO format'
    )
    parser.add_argument('inputs', nargs='+', help='images, videos, folders of images, or globs')
    parser.add_argument('--config', help='config file, or mmdet::folder/name.py')
    parser.add_argument('--checkpoint', required=True, help='checkpoint file')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='instead of --config, run the config that the checkpoint holds; it is a program',
    )
    parser.add_argument(
        '--out-dir', default='work_dirs/predictions', help='folder to write; default: %(default)s'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=SCORE_THRESHOLD,
        help='lowest score that is drawn, the file has all; default: %(default)s',
    )
    parser.add_argument('--device', help='such as cuda:0 or cpu; default: the best there is')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with cli.one_line_errors(), quiet_stack():
        inputs = find_inputs(args.inputs)
        detector = load_detector(args.config, args.checkpoint, args.device, args.trust_checkpoint)
    with cli.one_line_errors(ValueError, OSError), quiet_stack():
        written = predict(detector, inputs, args.out_dir, args.score_thr)
    print(f'wrote {written.json_path} ({written.num_images} images) and pictures/ beside it')
    if written.failed:
        names = ', '.join(map(str, written.failed))
        sys.exit(f'error: {len(written.failed)} of {len(inputs)} could not be read: {names}')


if __name__ == '__main__':
    main()
