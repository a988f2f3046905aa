"""Give the readers of mmws mutated inputs; each must be read or refused with one clear error.

    python -m tools.dev.fuzz --inputs 100 --seed 1 --seed 2 --results counts.jsonl

Options of the command line, settings, checkpoints, foreign weights, archives, servers, annotations
in five formats and images are mutated by field and type, or by byte. Each input is read in a
process of its own. A refusal is an exit with `error: ` lines, or a ``ValueError`` or ``OSError``,
which the tools print so; it must name the file. Anything else fails: another exception, the death
of the process, a hang, a file that is left behind. Where a field was changed, `field named` counts
the refusals that name it; the others are printed with ``FUZZ_FIELDS=1``: they may name what the
change led to. Prints a table of counts, and the failures with their inputs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import files, settings
from .annotations import coco, own_data
from .mutators import Input

SECONDS = 30  # of computing, for one input
WALL_SECONDS = 240
GIGABYTES = 6  # of memory beyond that of the parent
KINDS: tuple[Callable[[Path, random.Random], Input], ...] = (
    files.options, settings.settings, files.checkpoints, settings.resumes, files.foreign_weights,
    files.archives, files.servers, coco, own_data, files.images,
)  # fmt: skip
OUTCOMES = (
    'read', 'refused', 'file not named', 'file left', 'hang', 'crash', 'traceback', 'not made',
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--inputs', type=int, default=50, help='of each kind, for each seed')
    parser.add_argument('--first', type=int, default=0, help='number of the first input')
    parser.add_argument('--seed', type=int, action='append', help='may be given several times')
    parser.add_argument('--kind', choices=[kind.__name__ for kind in KINDS], nargs='+')
    parser.add_argument('--results', type=Path, help='append the counts to this file')
    parser.add_argument('--summary', action='store_true', help='print the table of `--results`')
    args = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    if not args.summary:
        chosen = [kind for kind in KINDS if args.kind is None or kind.__name__ in args.kind]
        settings.prepare(
            detectors=any(kind.__module__ != files.__name__ for kind in chosen),
            train=settings.resumes in chosen,
        )
        for kind in chosen:
            for seed in args.seed or [0]:
                for number in range(args.first, args.first + args.inputs):
                    _count(kind, f'{seed}-{number}', counts)
        if args.results:
            with args.results.open('a') as file:
                for (name, outcome), count in counts.items():
                    line = {'seeds': args.seed, 'first': args.first, 'inputs': args.inputs,
                            'kind': name, 'outcome': outcome, 'count': count}  # fmt: skip
                    file.write(json.dumps(line) + '\n')
    elif args.results:
        for line in map(json.loads, args.results.read_text().splitlines()):
            counts[line['kind'], line['outcome']] += line['count']
    print(table(counts))
    sys.exit(any(counts[key] for key in counts if key[1] in OUTCOMES[2:]))


def table(counts: Counter[tuple[str, str]]) -> str:
    """Return the counts of each kind of input, and their sums."""
    columns = (*OUTCOMES, 'by field', 'field named')
    rows = ['| inputs | ' + ' | '.join(columns) + ' |', '| --- |' + ' ---: |' * len(columns)]
    names = [kind.__name__ for kind in KINDS if any(counts[kind.__name__, o] for o in OUTCOMES)]
    for name in names:
        rows.append(f'| {name} | ' + ' | '.join(str(counts[name, c]) for c in columns) + ' |')
    sums = [str(sum(counts[name, column] for name in names)) for column in columns]
    return '\n'.join([*rows, '| all | ' + ' | '.join(sums) + ' |'])


def _count(kind: Callable[..., Input], seed: str, counts: Counter[tuple[str, str]]) -> None:
    """Make an input, read it, and count what came of it; print a failure."""
    name = kind.__name__
    with tempfile.TemporaryDirectory(prefix='fuzz_') as folder:
        result = _read_apart(kind, Path(folder), seed)
    outcome, text = result['outcome'], result['text']
    counts[name, outcome] += 1
    if outcome == 'refused' and result['fields']:
        counts[name, 'by field'] += 1
        named = any(field.lower() in text.lower() for field in result['fields'])
        counts[name, 'field named'] += named
        if not named and os.environ.get('FUZZ_FIELDS'):
            print(f'{name} {seed}: {result["fields"]} not named: {text[:300]}', flush=True)
    if outcome not in OUTCOMES[:2]:
        print(f'{name} {seed}: {outcome} {result["fields"]}: {text}', flush=True)


def _read_apart(kind: Callable[..., Input], folder: Path, seed: str) -> dict[str, Any]:
    """Read an input in a process of its own."""
    report, output = folder / '.report', folder / '.output'
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            with output.open('w') as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            report.write_text(json.dumps(_read(kind, folder, seed)))
        finally:
            os._exit(0)
    waited = 0.0  # not by the clock, as both processes may be stopped meanwhile
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if waited > WALL_SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
        waited += 0.002
    if report.exists():
        return json.loads(report.read_text())
    slow = waited > WALL_SECONDS or 'CPU time limit' in output.read_text(errors='replace')
    return {'outcome': 'hang' if slow else 'crash', 'text': '', 'fields': []}


def _limit() -> None:
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (GIGABYTES << 30),) * 2)
    signal.signal(
        signal.SIGPROF, lambda number, frame: os.write(2, b'CPU time limit') + os._exit(1)
    )
    signal.setitimer(signal.ITIMER_PROF, SECONDS)


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob('*') if path.is_file()}


def _read(kind: Callable[..., Input], folder: Path, seed: str) -> dict[str, Any]:
    os.environ['MMWS_CACHE_DIR'] = str(folder / '.cache')
    os.chdir(folder)
    inside = folder / 'in'
    inside.mkdir()
    try:
        made = kind(inside, random.Random(seed))
    except Exception as error:
        traceback.print_exc()
        return {'outcome': 'not made', 'text': repr(error), 'fields': []}
    before = _files(inside)
    _limit()
    text = ''
    try:
        made.read()
        outcome = 'read'
    except (ValueError, OSError) as error:
        text = f'{type(error).__name__}: {error}'
        outcome = 'refused' if any(name in text for name in made.names) else 'file not named'
    except SystemExit as error:
        text = str(error.code)
        if error.code == 2:  # argparse has printed what is wrong
            text = (folder / '.output').read_text(errors='replace')
        named = text.startswith(('error: ', 'usage: ')) and any(n in text for n in made.names)
        outcome = 'read' if error.code in (None, 0) else 'refused' if named else 'file not named'
    except Exception:  # whatever comes is the finding
        outcome, text = 'traceback', ''.join(traceback.format_exc().splitlines(True)[-7:])
    if outcome in ('refused', 'file not named') and _kept(_files(inside) - before):
        outcome = 'file left'
        text += f' {[str(path) for path in _kept(_files(inside) - before)]}'
    return {'outcome': outcome, 'text': text[:1500], 'fields': list(made.fields)}


def _kept(new: set[Path]) -> list[Path]:
    """Return files that a refusal leaves and should not.

    Logs, a download to go on with, and whole files that the message names are meant to stay.
    """
    return sorted(
        path
        for path in new
        if path.suffix not in ('.log', '.part')
        and not {'vis_data', 'work'} & set(path.parts)
        and not (path.parent.name == 'mine_data' and _is_json(path))
    )


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
