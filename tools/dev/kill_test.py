"""Kill short trainings at random moments, resume them, and compare with ones left in peace.

    python tools/dev/kill_test.py --kills 10 --seed 1 --results docs/kill_test.jsonl

Each case trains a narrow Mask R-CNN on a few digits (crop and flip, 2 data workers, EMA, gradients
accumulated over 2 steps), by epochs or by iterations, in 1 or 2 processes, with a seed or without.
SIGKILL comes at a random step, or while a checkpoint is being written; two processes lose one rank
or the launcher. The training is resumed, and its last checkpoint must be that of an uninterrupted
training to the bit. A line for each case is appended to the results file, so that runs add up.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

STEPS = 8
TIMEOUT = 600  # seconds for one training
CONFIG = """
_base_ = '{root}/configs/mask_rcnn_r18_gnws_digits.py'
custom_imports = dict(imports=['mmws', 'kill_test_progress'])
data_root = '{data}/'
loader = dict(num_workers=2, persistent_workers={by_epoch}, dataset=dict(data_root=data_root))
train_dataloader = dict(loader, sampler=dict(type='{sampler}'))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
train_cfg = {train_cfg}
optim_wrapper = dict(accumulative_counts=2)
custom_hooks = [dict(type='EMAHook', momentum=0.1), dict(type='mmengine.Progress')]
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(by_epoch={by_epoch}, interval={interval}, max_keep_ckpts=2, save_best=None))
"""
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

    by_epoch: bool
    processes: int
    seeded: bool
    step: int
    while_writing: bool
    target: str  # 'training', 'rank' or 'launcher'
    delay: float  # seconds after the step has begun


def draw_case(numbers: random.Random, processes: int) -> Case:
    """Return a random case."""
    return Case(
        by_epoch=numbers.random() < 0.5,
        processes=processes,
        seeded=numbers.random() < 0.5,
        step=numbers.randrange(STEPS),
        while_writing=numbers.random() < 0.3,
        target='training' if processes == 1 else numbers.choice(['rank', 'launcher']),
        delay=numbers.random(),
    )


class Trainings:
    """Starts trainings on one set of images, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        from mmws.data.digits import DigitsConfig, generate_digits

        self.folder = folder
        data = generate_digits(
            folder / 'digits',
            DigitsConfig(num_train=4, num_val=2, image_size=(128, 128), digit_size=(28, 64)),
        )
        (folder / 'kill_test_progress.py').write_text(PROGRESS)
        for by_epoch in (True, False):
            epochs = STEPS // 4
            (folder / f'by_epoch_{by_epoch}.py').write_text(
                CONFIG.format(
                    root=ROOT,
                    data=data,
                    by_epoch=by_epoch,
                    interval=1 if by_epoch else 3,
                    sampler='DefaultSampler' if by_epoch else 'InfiniteSampler',
                    train_cfg=f'dict(_delete_=True, by_epoch=True, max_epochs={epochs})'
                    if by_epoch
                    else f'dict(max_iters={STEPS}, val_interval=6)',
                )
            )

    def start(self, case: Case, work_dir: Path, *options: str) -> subprocess.Popen[bytes]:
        """Start a training in a session of its own."""
        config = self.folder / f'by_epoch_{case.by_epoch}.py'
        command = [sys.executable, str(ROOT / 'tools/train.py'), str(config)]
        if case.processes > 1:
            command = [str(ROOT / 'tools/dist_train.sh'), str(config), str(case.processes)]
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
        work_dir = self.folder / f'reference_{case.by_epoch}_{case.processes}_{seed}'
        if not work_dir.exists():
            status = self.finish(case, work_dir, '--cfg-options', f'randomness.seed={seed}')
            if status != 0:
                raise RuntimeError(f'a training left in peace ended with status {status}')
        return last_file(work_dir, case)


def last_file(work_dir: Path, case: Case) -> Path:
    """Return the path of the checkpoint after the last step."""
    return work_dir / (f'epoch_{STEPS // 4}.pth' if case.by_epoch else f'iter_{STEPS}.pth')


def processes_of(work_dir: Path) -> list[int]:
    """Return the ids of live processes that have a work dir on their command line."""
    found = []
    for entry in Path('/proc').glob('[0-9]*'):
        try:
            words = (entry / 'cmdline').read_bytes().split(b'\0')
            state = (entry / 'stat').read_text().rpartition(')')[2].split()[0]
        except OSError:
            continue  # it has ended meanwhile
        if str(work_dir).encode() in words and state != 'Z':
            found.append(int(entry.name))
    return found


def kill(case: Case, training: subprocess.Popen[bytes], work_dir: Path) -> int | None:
    """Kill a training at its moment; return the step, None if it had ended before."""
    end = time.monotonic() + TIMEOUT
    step, pid = 0, 0
    while training.poll() is None and time.monotonic() < end:
        reports = [path.read_text().split() for path in work_dir.glob('step_*')]
        if reports and all(reports):
            step, pid = max((int(step), int(pid)) for step, pid in reports)
        writing = any(work_dir.glob('.*.unfinished'))
        if reports and step >= case.step and (writing or not case.while_writing):
            if not case.while_writing:
                time.sleep(case.delay)
            victim = pid if case.target == 'rank' else training.pid
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                return None
            training.wait(TIMEOUT)
            return step
        time.sleep(0.002)
    training.wait(TIMEOUT)
    return None


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of weights and states of the optimizer that differ by a bit."""
    import torch

    from mmws.compat import read_checkpoint

    a, b = read_checkpoint(one), read_checkpoint(other)
    names = []
    for part in ('state_dict', 'ema_state_dict'):
        names += [k for k, value in a[part].items() if not torch.equal(value, b[part][k])]
    for number, state in a['optimizer']['state'].items():
        others = b['optimizer']['state'][number]
        names += [f'{number}.{k}' for k, v in state.items() if not torch.equal(v, others[k])]
    return names


def run_case(trainings: Trainings, case: Case, work_dir: Path) -> dict[str, Any]:
    """Kill, resume and compare; return what was seen."""
    from mmws.checkpoints import find_intact
    from mmws.compat import read_checkpoint

    options = ['--cfg-options', 'randomness.seed=1'] if case.seeded else []
    killed_at = kill(case, trainings.start(case, work_dir, *options), work_dir)
    orphans_gone_by = time.monotonic() + 10
    while processes_of(work_dir) and time.monotonic() < orphans_gone_by:
        time.sleep(0.1)
    orphans = len(processes_of(work_dir))
    for pid in processes_of(work_dir):
        os.kill(pid, signal.SIGKILL)
    kept = find_intact(work_dir)
    status = trainings.finish(case, work_dir, '--resume', *options)
    result = {
        **case._asdict(),
        'killed_at': killed_at,
        'resumed_from': kept.path.name if kept.path else None,
        'orphans': orphans,
        'status': status,
        'different': None,
    }
    last = last_file(work_dir, case)
    if status == 0 and last.exists():
        seed = read_checkpoint(last)['meta']['seed']
        result['different'] = len(differences(trainings.reference(case, seed), last))
    result['passed'] = result['different'] == 0 and not orphans
    return result


def summary(results: Path) -> str:
    """Return the counts of a results file."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    counts = Counter((line['processes'], line['passed']) for line in lines)
    parts = []
    for processes in sorted({line['processes'] for line in lines}):
        passed = counts[processes, True]
        total = passed + counts[processes, False]
        parts.append(f'{passed} of {total} with {processes} process(es)')
    return 'bit-identical after a kill, without orphans: ' + ', '.join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=4)
    parser.add_argument('--processes', type=int, nargs='+', default=[1, 1, 1, 2])
    parser.add_argument('--seed', type=int, default=0, help='of the moments to kill at')
    parser.add_argument('--results', type=Path, default=Path('kill_test.jsonl'))
    args = parser.parse_args()
    numbers = random.Random(args.seed)
    failed = 0
    with tempfile.TemporaryDirectory(prefix='kill_test_') as name:
        trainings = Trainings(Path(name))
        for number in range(args.kills):
            case = draw_case(numbers, args.processes[number % len(args.processes)])
            result = {'seed': args.seed, 'number': number}
            result |= run_case(trainings, case, Path(name, f'case_{number}'))
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
