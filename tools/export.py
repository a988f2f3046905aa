"""Write a detector for other runtimes: `python tools/export.py CONFIG CHECKPOINT --out X.onnx`."""

import argparse

import mmws  # noqa: F401
from mmws.engine.cli import one_line_errors
from mmws.engine.quiet import quiet_stack
from mmws.surgery.export import export_files


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Fold a detector and write it to one file, from the image to boxes and masks'
    )
    parser.add_argument('config', help='config file, or mmdet::folder/name.py')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', required=True, help='FILE.onnx, or FILE.pt2 for torch.export')
    parser.add_argument(
        '--size', type=int, nargs=2, required=True, metavar=('HEIGHT', 'WIDTH'), help='of images'
    )
    parser.add_argument(
        '--images', nargs='*', default=[], help='image files to try the file with, beside random'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_line_errors(), quiet_stack():
        difference = export_files(
            args.config, args.checkpoint, args.out, tuple(args.size), args.images
        )
    print(f'wrote {args.out}')
    print(f'boxes and scores differ from the detector by {difference:.1e} at most')


if __name__ == '__main__':
    main()
