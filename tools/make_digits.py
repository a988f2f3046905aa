"""Write the digits set, a small instance-segmentation set of handwritten digits on textures."""

import argparse

import mmws.engine  # noqa: F401  (first, as it says what to install)
from mmws.data.digits import (
    DigitsConfig,
    generate_digits,
    is_up_to_date,
    write_single_digits,
)
from mmws.engine.cli import one_line_errors


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    defaults = DigitsConfig()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--out', default='data/digits', help='folder to write')
    parser.add_argument('--voc', action='store_true', help='also write VOCdevkit/VOC2012 in it')
    parser.add_argument(
        '--single',
        action='store_true',
        help='write the single digits instead, as folders of images for classification',
    )
    parser.add_argument('--seed', type=int, default=defaults.seed, help='other scenes')
    parser.add_argument('--num-train', type=int, default=defaults.num_train, help='scenes')
    parser.add_argument('--num-val', type=int, default=defaults.num_val, help='scenes')
    parser.add_argument(
        '--mask-format',
        choices=['polygon', 'rle'],
        default=defaults.mask_format,
        help='of the COCO files',
    )
    return parser.parse_args()


def main() -> None:
    """Write the set and print a summary."""
    fields = vars(parse_args())
    out = fields.pop('out')
    if fields.pop('single'):
        with one_line_errors():
            write_single_digits(out)
        print(f'wrote the single digits to {out}/train and {out}/val, a folder for each class')
        return
    with one_line_errors():
        config = DigitsConfig(**fields)
        if is_up_to_date(out, config):
            print(f'{out} is up to date')
            return
        generate_digits(out, config)
    layouts = 'COCO and VOC layout' if config.voc else 'COCO layout'
    print(f'wrote {config.num_train} training and {config.num_val} validation scenes to {out}')
    print(f'({layouts}, {config.mask_format} masks, seed {config.seed})')


if __name__ == '__main__':
    main()
