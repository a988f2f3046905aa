"""Convert and fold every model of MMDetection: `python -m tools.dev.zoo_check --out DIR`."""

import argparse
import signal
import sys

import mmws  # noqa: F401
from mmws.engine.cli import one_line_errors
from tools.dev.zoo_check import check_zoo, write_report
from tools.dev.zoo_check.run import zoo_configs


def _shard(text: str) -> tuple[int, int]:
    index, count = (int(part) for part in text.split('/'))
    if not 0 <= index < count:
        raise ValueError
    return index, count


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Build, run, convert and fold the model of every config that MMDetection ships'
    )
    parser.add_argument('configs', nargs='*', help='names below .mim/configs (default: all)')
    parser.add_argument('--out', default='work_dirs/zoo_check', help='folder of the results')
    parser.add_argument(
        '--report',
        metavar='FILE.md',
        help='write the results in OUT as a table, and check nothing',
    )
    parser.add_argument(
        '--shard', type=_shard, default=(0, 1), metavar='I/N', help='every Nth config, from the Ith'
    )
    parser.add_argument('--minutes', type=float, help='begin no further config after this time')
    parser.add_argument('--workers', type=int, default=2, help='processes of one thread each')
    parser.add_argument('--seconds', type=float, default=300, help='time limit of a config')
    parser.add_argument('--gigabytes', type=float, default=8, help='memory limit of a process')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.report:
        with one_line_errors():
            write_report(args.out, args.report, 'python -m tools.dev.zoo_check')
        print(f'wrote {args.report}')
        return
    # On SIGTERM, which schedulers send, exit through the pool, which kills its workers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped; the same command goes on'))
    with one_line_errors():
        results = check_zoo(
            args.out,
            configs=(args.configs or zoo_configs())[args.shard[0] :: args.shard[1]],
            workers=args.workers,
            seconds=args.seconds,
            gigabytes=args.gigabytes,
            minutes=args.minutes,
        )
    print(f'wrote {results}')


if __name__ == '__main__':
    main()
