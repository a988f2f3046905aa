"""Kill short trainings at random moments, resume them, and compare with uninterrupted ones.

    python tools/dev/kill_test.py --kills 6 --seed 1 --results docs/reports/kill_test.jsonl

Each case trains a narrow Mask R-CNN on a few digits (crop and flip, 2 data workers, EMA, gradients
accumulated over 2 steps), in 1 or 2 processes, with a seed or without. The training runs by epochs
or by iterations, and saves at the end of epochs, in their middle, or every 3 iterations. SIGKILL
comes at a random moment, or while a checkpoint is being written; two processes lose one rank or the
launcher. Then no process may be left, every checkpoint that was there must be intact, and the
resumed training must end with the weights, EMA, optimizer and schedules of an uninterrupted one, to
the bit. A line for each case is appended to the results file, so that runs add up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import operator
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

EPOCHS = 3
STEPS = 9  # of a process, in all epochs
TIMEOUT = 600  # seconds for one training
CONFIG = """
_base_ = '{root}/configs/mask_rcnn_r18_gnws_digits.py'
custom_imports = dict(imports=['mmws', 'kill_test_progress'])
data_root = '{data}/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomCrop', crop_size=(112, 112)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    num_workers=2, persistent_workers={persistent}, sampler=dict(type='{sampler}'),
    dataset=dict(data_root=data_root, indices={images}, pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
train_cfg = {train_cfg}
optim_wrapper = dict(accumulative_counts=2)
custom_hooks = [dict(type='EMAHook', momentum=0.1), dict(type='mmengine.Progress')]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(
    by_epoch={save_by_epoch}, interval={interval}, max_keep_ckpts=2, save_best=None))
"""
BY_EPOCHS = f'dict(_delete_=True, by_epoch=True, max_epochs={EPOCHS})'
BY_ITERATIONS = f'dict(max_iters={STEPS}, val_interval=6)'
# An update takes 2 iterations, so 3 end between two updates. The middle of an epoch is 2 of 3.
SCHEDULES: dict[str, dict[str, Any]] = {
    'epochs': dict(
        train_cfg=BY_EPOCHS, save_by_epoch=True, interval=1, sampler='DefaultSampler',
        persistent=True,
    ),
    'epochs, saved in their middle': dict(
        train_cfg=BY_EPOCHS, save_by_epoch=False, interval=2, sampler='DefaultSampler',
        persistent=False,
    ),
    'iterations': dict(
        train_cfg=BY_ITERATIONS, save_by_epoch=False, interval=3, sampler='InfiniteSampler',
        persistent=True,
    ),
}  # fmt: skip
PROGRESS = """
import os
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Progress(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        with open(os.path.join(runner.work_dir, f'step_{runner.rank}'), 'w') as file:
            file.write(f'{runner.iter} {os.getpid()}')
"""


class Case(NamedTuple):
    """One training to kill."""

    schedule: str
    processes: int
    seeded: bool
    step: int
    while_writing: bool
    target: str  # 'training', 'rank' or 'launcher'
    delay: float  # seconds after the step, or the writing, has begun


def draw_case(numbers: random.Random, processes: int) -> Case:
    """Return a random case."""
    while_writing = numbers.random() < 0.4
    return Case(
        schedule=numbers.choice(list(SCHEDULES)),
        processes=processes,
        seeded=numbers.random() < 0.5,
        step=numbers.randrange(STEPS),
        while_writing=while_writing,
        target='training' if processes == 1 else numbers.choice(['rank', 'launcher']),
        # A step takes about a second, a checkpoint is written within a tenth of one.
        delay=round(numbers.random() * (0.1 if while_writing else 1), 3),
    )


class Trainings:
    """Starts trainings on one set of images, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        from mmws.data.digits import DigitsConfig, generate_digits

        self.folder = folder
        data = generate_digits(
            folder / 'digits',
            DigitsConfig(num_train=6, num_val=2, image_size=(128, 128), digit_size=(28, 64)),
        )
        (folder / 'kill_test_progress.py').write_text(PROGRESS)
        for number, options in enumerate(SCHEDULES.values()):
            for processes in (1, 2):
                images = processes * STEPS // EPOCHS
                (folder / f'config_{number}_{processes}.py').write_text(
                    CONFIG.format(root=ROOT, data=data, images=images, **options)
                )

    def config(self, case: Case) -> Path:
        """Return the config of a case."""
        number = list(SCHEDULES).index(case.schedule)
        return self.folder / f'config_{number}_{case.processes}.py'

    def start(self, case: Case, work_dir: Path, *options: str) -> subprocess.Popen[bytes]:
        """Start a training in a session of its own."""
        config = str(self.config(case))
        command = [sys.executable, str(ROOT / 'tools/train.py'), config]
        if case.processes > 1:
            command = [str(ROOT / 'tools/dist_train.sh'), config, str(case.processes)]
        work_dir.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            'PYTHONPATH': os.pathsep.join([str(ROOT), str(self.folder)]),
            'PYTHON': sys.executable,
            'OMP_NUM_THREADS': '1',
        }
        with Path(f'{work_dir}.log').open('ab') as log:
            return subprocess.Popen(
                [*command, '--work-dir', str(work_dir), *options],
                env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def finish(self, case: Case, work_dir: Path, *options: str) -> int:
        """Train to the end, and return the exit status."""
        return self.start(case, work_dir, *options).wait(TIMEOUT)

    def reference(self, case: Case, seed: int) -> Path:
        """Return the last checkpoint of an uninterrupted training."""
        work_dir = self.folder / f'reference_{self.config(case).stem}_{seed}'
        if not work_dir.exists():
            status = self.finish(case, work_dir, '--cfg-options', f'randomness.seed={seed}')
            if status != 0:
                raise RuntimeError(f'an uninterrupted training ended with status {status}')
        return last_file(work_dir, case)


def last_file(work_dir: Path, case: Case) -> Path:
    """Return the path of the checkpoint after the last step."""
    by_epoch = SCHEDULES[case.schedule]['save_by_epoch']
    return work_dir / (f'epoch_{EPOCHS}.pth' if by_epoch else f'iter_{STEPS}.pth')


def processes_of(training: int, work_dir: Path) -> list[int]:
    """Return the ids of the live processes of a training: of its session, or with its work dir."""
    found = []
    for entry in Path('/proc').glob('[0-9]*'):
        try:
            words = (entry / 'cmdline').read_bytes().split(b'\0')
            state, _, _, session = (entry / 'stat').read_text().rpartition(')')[2].split()[:4]
        except OSError:
            continue  # it has ended meanwhile
        if state != 'Z' and (int(session) == training or str(work_dir).encode() in words):
            found.append(int(entry.name))
    return found


class Kill(NamedTuple):
    """What was seen at the moment of a kill."""

    step: int
    newest: float  # when the newest of the checkpoints that were there was renamed, 0 for none


def newest(work_dir: Path) -> float:
    """Return when the newest checkpoint was written, 0 if there is none."""
    times = [0.0]
    for path in work_dir.glob('*.pth'):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            times.append(path.stat().st_mtime)
    return max(times)


def kill(case: Case, training: subprocess.Popen[bytes], work_dir: Path) -> Kill | None:
    """Kill a training at its moment; return None if it had ended before."""
    end = time.monotonic() + TIMEOUT
    step, pid = 0, 0
    while training.poll() is None and time.monotonic() < end:
        reports = [path.read_text().split() for path in work_dir.glob('step_*')]
        if reports and all(reports):
            step, pid = max((int(step), int(pid)) for step, pid in reports)
        writing = any(work_dir.glob('.*.unfinished'))
        if pid and step >= case.step and (writing or not case.while_writing):
            time.sleep(case.delay)
            seen = Kill(step, newest(work_dir))
            try:
                os.kill(pid if case.target == 'rank' else training.pid, signal.SIGKILL)
            except ProcessLookupError:
                break
            return seen if training.wait(TIMEOUT) != 0 else None
        time.sleep(0.002)
    training.wait(TIMEOUT)
    return None


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of the tensors and numbers that differ by a bit."""
    import torch

    from mmws.compat import read_checkpoint

    def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, (dict, list, tuple)):
            for key, part in value.items() if isinstance(value, dict) else enumerate(value):
                yield from leaves(part, f'{name}.{key}')
        else:
            yield name, value

    parts = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')
    a, b = (
        dict(leaf for part in parts for leaf in leaves(checkpoint[part], part))
        for checkpoint in (read_checkpoint(one), read_checkpoint(other))
    )
    names = sorted(a.keys() ^ b.keys())
    for name in a.keys() & b.keys():
        equal = torch.equal if isinstance(a[name], torch.Tensor) else operator.eq
        if not equal(a[name], b[name]):
            names.append(name)
    return names


def run_case(trainings: Trainings, case: Case, work_dir: Path) -> dict[str, Any] | None:
    """Kill, resume and compare; return what was seen, None if the training was not killed."""
    from mmws.checkpoints import find_intact
    from mmws.compat import CheckpointError, read_checkpoint

    options = ['--cfg-options', 'randomness.seed=1'] if case.seeded else []
    training = trainings.start(case, work_dir, *options)
    killed = kill(case, training, work_dir)
    if killed is None:
        return None
    orphans_gone_by = time.monotonic() + 10
    while processes_of(training.pid, work_dir) and time.monotonic() < orphans_gone_by:
        time.sleep(0.1)
    orphans = processes_of(training.pid, work_dir)
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
    result = {
        **case._asdict(),
        'killed_at': killed.step,
        'draft_left': any(work_dir.glob('.*.unfinished')),
        'resumed_from': None,
        'orphans': len(orphans),
        'lost': [],
        'status': None,
        'different': None,
    }
    try:
        found = find_intact(work_dir)
        result['lost'] = found.skipped
        if found.path is not None:
            result['resumed_from'] = found.path.name
        if newest(work_dir) < killed.newest:
            result['lost'].append('the newest checkpoint')
    except CheckpointError as error:
        result['lost'] = [str(error)]
    result['status'] = trainings.finish(case, work_dir, '--resume', *options)
    last = last_file(work_dir, case)
    if result['status'] == 0 and last.exists():
        seed = read_checkpoint(last)['meta']['seed']
        result['different'] = len(differences(trainings.reference(case, seed), last))
    result['passed'] = result['different'] == 0 and not orphans and not result['lost']
    return result


def summary(results: Path) -> str:
    """Return a table of the counts in a results file."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    columns = {
        'killed': lambda line: True,
        'of these while writing': lambda line: line['draft_left'],
        'resumed from a checkpoint': lambda line: line['resumed_from'] is not None,
        'processes left': lambda line: line['orphans'],
        'checkpoints lost': lambda line: line['lost'],
        'bit-identical': lambda line: line['different'] == 0,
    }
    table = [f'| processes | {" | ".join(columns)} |', '| --- |' + ' ---: |' * len(columns)]
    for processes in sorted({line['processes'] for line in lines}):
        rows = [line for line in lines if line['processes'] == processes]
        counts = [str(sum(map(bool, map(column, rows)))) for column in columns.values()]
        table.append(f'| {processes} | {" | ".join(counts)} |')
    return '\n'.join(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=4, help='0 prints the summary alone')
    parser.add_argument('--processes', type=int, choices=[1, 2], default=1)
    parser.add_argument('--seed', type=int, default=0, help='of the cases and their moments')
    parser.add_argument('--results', type=Path, default=Path('kill_test.jsonl'))
    args = parser.parse_args()
    numbers = random.Random(f'{args.seed} {args.processes}')
    failed, done, number = 0, 0, 0
    with tempfile.TemporaryDirectory(prefix='kill_test_') as name:
        trainings = Trainings(Path(name)) if args.kills else None
        while trainings and done < args.kills:
            number += 1
            case = draw_case(numbers, args.processes)
            result = run_case(trainings, case, Path(name, f'case_{number}'))
            if result is None:
                print(f'case {number} ended before its kill', flush=True)
                continue
            done += 1
            result = {'seed': args.seed, 'number': number, **result}
            print(json.dumps(result), flush=True)
            if not result['passed']:
                failed += 1
                log = Path(name, f'case_{number}.log').read_text(errors='replace')
                print(log[-3000:], file=sys.stderr)
            with args.results.open('a') as file:
                file.write(json.dumps(result) + '\n')
    print(summary(args.results))
    sys.exit(failed > 0)


if __name__ == '__main__':
    main()
