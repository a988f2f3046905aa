"""Fold a detector into plain layers: `python tools/fold.py CONFIG CHECKPOINT --out DIR`."""

import argparse

import mmws  # noqa: F401
from mmws.compat import ops_are_compiled
from mmws.engine.cli import one_line_errors
from mmws.engine.quiet import quiet_stack
from mmws.surgery.fold_files import fold_files


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write a config and a checkpoint that give the same outputs without mmws'
    )
    parser.add_argument('config', help='config file, or mmdet::folder/name.py')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', required=True, help='folder to write to')
    parser.add_argument(
        '--weights-only',
        action='store_true',
        help='write the checkpoint alone, for a model that no plain config describes',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_line_errors(), quiet_stack():
        files = fold_files(args.config, args.checkpoint, args.out, args.weights_only)
    for path in (files.config, files.checkpoint):
        if path is not None:
            print(f'wrote {path}')
    if files.config is not None and not ops_are_compiled():
        print('without compiled ops of MMCV, `import mmws` before mmdet answers for them')
    print(f'outputs on random images differ by {files.difference:.1e} at most')


if __name__ == '__main__':
    main()
