"""Convert a classifier's weights to a backbone's: `python tools/convert_checkpoint.py SRC ...`."""

import argparse

import mmws  # noqa: F401
from mmws.checkpoints import SOURCES, convert_checkpoint
from mmws.engine.cli import one_line_errors
from mmws.engine.quiet import quiet_stack


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write the weights of a classifier as those of a backbone, for init_cfg'
    )
    parser.add_argument('src', help='file of weights')
    parser.add_argument(
        '--from',
        dest='source',
        choices=SOURCES,
        required=True,
        help='who made it: the authors of WS (jhu), torchvision, or timm',
    )
    parser.add_argument(
        '--classifier',
        action='store_true',
        help="keep the classifier: the file is for MMPretrain's ImageClassifier",
    )
    parser.add_argument('--out', required=True, help='file to write')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_line_errors(), quiet_stack():
        backbone = convert_checkpoint(args.src, args.source, args.out, args.classifier)
    print(f'wrote {args.out}: {len(backbone.state_dict)} weights of a {backbone.type}')
    preprocessing = backbone.record['data_preprocessor']
    if preprocessing is None:
        print('it does not say how its images were normalized: see where it comes from')
    else:
        print(f'model.data_preprocessor: {preprocessing}')


if __name__ == '__main__':
    main()
