"""Run the trainings of a study and report on them: `python tools/study.py SPEC [--report]`."""

import argparse
import math
import signal
import sys
from pathlib import Path
from typing import Any

import mmws.engine  # noqa: F401  (first, as it says what to install)
from mmws.engine.cli import one_line_errors
from mmws.hooks.stop import RESUMABLE, parse_duration
from mmws.study import read_spec, run_study, with_data, write_report


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Run the trainings of a study that its results file does not have yet. '
        'An interrupted study goes on where it was; several may run at a time, with --shard.'
    )
    parser.add_argument('spec', help='file of the study, such as configs/study/claims.py')
    parser.add_argument('--results', help='JSON lines; default: docs/reports/<name of SPEC>.jsonl')
    parser.add_argument(
        '--data',
        help='data set of your own for all tasks: what new_config.py recognizes, or, to classify, '
        'a folder with train and val, each with a folder of images for each class',
    )
    parser.add_argument(
        '--work-dir', default='work_dirs/study', help='folder of configs and logs of the runs'
    )
    parser.add_argument(
        '--shard',
        default='1/1',
        metavar='I/N',
        help='run the I-th of N parts, from 1, as one of N jobs of an array',
    )
    parser.add_argument(
        '--stop-after',
        metavar='H:MM:SS',
        help=f'begin no run after this time; with runs left, exit with status {RESUMABLE}',
    )
    parser.add_argument(
        '--only', default='', metavar='TEXT', help='only runs whose name has this text in it'
    )
    parser.add_argument(
        '--report',
        nargs='?',
        const='',
        metavar='FILE.md',
        help='run nothing; write tables and figures of the results file; default: beside it',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with one_line_errors(ValueError, OSError, ImportError, RuntimeError):
        spec = read_spec(args.spec)
        results = args.results or f'docs/reports/{spec.path.stem}.jsonl'
        if args.report is not None:
            print(f'wrote {write_report(spec, results, args.report or None)}')
            return
        shard = _shard(args.shard)
        if args.data:
            # Jobs of an array convert the data each for itself.
            spec = with_data(spec, args.data, Path(args.work_dir) / f'data_{shard[0]}')
        left = run_study(
            spec,
            results,
            args.work_dir,
            shard=shard,
            stop_after=parse_duration(args.stop_after) if args.stop_after else math.inf,
            only=args.only,
            screen=sys.stdout,
        )
    print(f'results in {results}; {left} runs left')
    sys.exit(RESUMABLE if left else 0)


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition('/')
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ValueError(f'`shard` must be I/N with I from 1 to N, got {text!r}')
    return int(part), int(parts)


def _stop(*_: Any) -> None:
    sys.exit(RESUMABLE)  # ends the run that is on, which the next call begins anew


if __name__ == '__main__':
    main()
