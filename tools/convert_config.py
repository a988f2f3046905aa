"""Write the config of a detector with GN and WS: `python tools/convert_config.py BASE OUT`."""

import argparse

import mmws  # noqa: F401
from mmws.engine.cli import one_line_errors
from mmws.engine.quiet import quiet_stack
from mmws.surgery.convert_config import convert_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write a config with other convolutions and norms than its base has'
    )
    parser.add_argument('base', help='config to start from, a file or mmdet::folder/name.py')
    parser.add_argument('out', help='file to write')
    parser.add_argument(
        '--conv',
        default='WS',
        help='weight function of convolutions that feed a norm: WS, WN, AWS, ScaledWS or none '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--norm',
        default='GN',
        help='in place of Batch Normalization: GN, BCN, LN, IN or none (default: %(default)s)',
    )
    parser.add_argument('--force', action='store_true', help='overwrite the output file')
    return parser.parse_args()


def main() -> None:
    options = vars(parse_args())
    for side in ('conv', 'norm'):
        if options[side] == 'none':
            options[side] = None
    with one_line_errors(), quiet_stack():
        written = convert_config(**options)
    print(written.report.summary())
    for checkpoint in written.pretrained:
        print(f'pretrained: {checkpoint}')
    for path in written.from_scratch:
        print(f'from scratch: {path}, for which no weights with these layers are published')
    print(f'wrote {written.path}')


if __name__ == '__main__':
    main()
