"""Give the readers of mmws mutated inputs; each must be read or refused with one clear error.

    python tools/dev/fuzz.py --inputs 500 --seed 1 --seed 2

Options of the command line, configs, checkpoints, foreign weights, archives, annotations and images
are mutated by field and type, or by byte. An error counts as clear if it is a ``ValueError`` or an
``OSError`` (the command lines turn those into one line) that names the file; anything else, a hang
and a file left behind fail. Prints a table of counts, and the failures with their inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import io
import json
import math
import os
import random
import signal
import sys
import tarfile
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SECONDS = 20  # of computing, for one input
CONFIG = ROOT / 'configs/mask_rcnn_r18_gnws_narrow.py'


def odd_value(numbers: random.Random) -> Any:
    """Return a value that hardly any field expects."""
    return numbers.choice(
        [
            None, True, 0, -1, 10**400, math.nan, math.inf, 1e308, '', 'ä' * 50, '\0', '../x', [],
            [[]], [None], {}, {'': None}, {'type': 5}, [1, 'a', None], (), b'\xff', {1: 2},
            torch.tensor([]), torch.tensor(math.nan), torch.ones(2, 3, dtype=torch.int8),
        ]
    )  # fmt: skip


def mutate(tree: Any, numbers: random.Random) -> Any:
    """Return a copy of a tree of dicts and lists with one to three fields replaced or removed."""
    tree = copy.deepcopy(tree)
    for _ in range(numbers.randint(1, 3)):
        node = tree
        for _ in range(8):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            if not keys:
                break
            key = numbers.choice(keys)
            if isinstance(node[key], (dict, list)) and numbers.random() < 0.8:
                node = node[key]
                continue
            if isinstance(node, dict) and numbers.random() < 0.3:
                del node[key]
            else:
                node[key] = odd_value(numbers)
            break
    return tree


def damage(content: bytes, numbers: random.Random) -> bytes:
    """Return bytes that are cut, overwritten, repeated or replaced."""
    if not content:
        return b'\0'
    start = numbers.randrange(len(content))
    length = numbers.choice([1, 2, 16, 512])
    noise = bytes(numbers.randrange(256) for _ in range(length))
    return numbers.choice(
        [
            content[:start],
            content[:start] + noise + content[start + length :],
            content[:start] + content[start + length :],
            content[:start] + content[start : start + length] * 3 + content[start + length :],
            content[start:],
            noise,
            b'',
        ]
    )


def write_damaged(path: Path, content: bytes, numbers: random.Random) -> None:
    path.write_bytes(damage(content, numbers))


# ---- inputs: each function writes one, if need be, and returns what reads it


def options(folder: Path, numbers: random.Random) -> tuple[Callable[[], Any], str]:
    """Options of the command line, random or near right ones."""
    from mmws.config import load_config
    from mmws.config.structure import check_structure
    from mmws.engine import cli

    letters = '[](){},.=\'" \\0123456789abcdefaelnou_-+äö%$#\t\n'
    keys = ['a', 'model', 'train_dataloader', 'train_dataloader.batch_size', 'custom_hooks.0',
            'optim_wrapper.optimizer.lr', 'model.backbone.depth', 'val_evaluator', 'train_cfg',
            'param_scheduler.0.end', 'param_scheduler.7', 'randomness.seed']  # fmt: skip
    values = ['[1,2', '(1,', '[1]', '1' * 400, 'nan', 'None', '-1', '{}', '[[[[1]]]]', '"', '[]',
              '1e999', "{'a': 1}", ',', ',,', '[,]', 'True', '(' * 300 + ')' * 300]  # fmt: skip
    if numbers.random() < 0.4:
        text = ''.join(numbers.choice(letters) for _ in range(numbers.randint(1, 30)))
    else:
        text = f'{numbers.choice(keys)}={numbers.choice(values)}'

    def read() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                args = cli.parse_train_args([str(CONFIG), '--cfg-options', text])
            except SystemExit:
                return  # argparse has told it
        check_structure(load_config(flat_config(), args.cfg_options))

    return read, ''


@functools.cache
def flat_config() -> Path:
    """Return a config without a base, which is read faster."""
    from mmws.config import load_config

    path = Path(tempfile.mkdtemp(prefix='fuzz_config_'), 'flat.py')
    load_config(CONFIG).dump(path)
    return path


def sound_checkpoint() -> dict[str, Any]:
    weight = torch.rand(4, 3)
    return {
        'meta': {'epoch': 0, 'iter': 4, 'time': '20260101_000000', 'seed': 1, 'cfg': 'a = 1',
                 'dataset_meta': {'classes': ('a', 'b')}, 'mmws': {'weights': []}},
        'state_dict': {'module.conv.weight': weight, 'fc.bias': torch.rand(2)},
        'optimizer': {'state': {0: {'step': torch.tensor(4.0), 'exp_avg': torch.zeros(4, 3)}},
                      'param_groups': [{'lr': 0.1, 'params': [0]}]},
        'message_hub': {'log_scalars': {}, 'runtime_info': {}},
        'ema_state_dict': {'module.conv.weight': weight},
    }  # fmt: skip


def checkpoints(folder: Path, numbers: random.Random) -> tuple[Callable[[], Any], str]:
    """Checkpoints of odd structure, and damaged files."""
    from mmws.checkpoints import Checkpoint, check_finite, check_undamaged, find_intact
    from mmws.compat import read_checkpoint

    path = folder / 'iter_4.pth'
    if numbers.random() < 0.6:
        torch.save(mutate(sound_checkpoint(), numbers), path)
    else:
        buffer = io.BytesIO()
        torch.save(sound_checkpoint(), buffer)
        write_damaged(path, buffer.getvalue(), numbers)

    def read() -> None:
        with contextlib.suppress(ValueError):
            find_intact(folder)
        check_undamaged(path)
        check_finite(read_checkpoint(path), str(path))
        Checkpoint.read(path)

    return read, path.name


def foreign_weights(folder: Path, numbers: random.Random) -> tuple[Callable[[], Any], str]:
    """Files that a checkpoint of another library is wanted from."""
    from mmws.checkpoints import SOURCES, convert_checkpoint

    source = numbers.choice(sorted(SOURCES))
    path = folder / numbers.choice(['x.pth', 'x.npz', 'x.safetensors'])
    weights = {f'{numbers.choice(["conv1", "layer1.0.conv1", "stem.conv", "fc"])}.weight':
               torch.rand(8, 3, 3, 3), 'bn1.weight': torch.rand(8)}  # fmt: skip
    if path.suffix == '.npz':
        np.savez(path, **{key: value.numpy() for key, value in weights.items()})  # type: ignore[arg-type]
    else:
        torch.save(mutate(weights, numbers), path)
    if numbers.random() < 0.4:
        write_damaged(path, path.read_bytes(), numbers)
    return lambda: convert_checkpoint(path, source, folder / 'out.pth'), path.name


def archives(folder: Path, numbers: random.Random) -> tuple[Callable[[], Any], str]:
    """Damaged zip and tar files, plain and compressed."""
    from mmws.data.download import unpack

    path = folder / numbers.choice(['a.zip', 'a.tar', 'a.tgz'])
    text = b'some text ' * 300
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w', numbers.choice([0, 8, 12, 14])) as archive:
            archive.writestr('a/b.txt', text)
            archive.writestr('a/c.txt', text)
    else:
        with tarfile.open(path, 'w:gz' if path.suffix == '.tgz' else 'w') as archive:
            entry = tarfile.TarInfo('a/b.txt')
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    write_damaged(path, path.read_bytes(), numbers)
    return lambda: unpack(path, folder / 'out'), path.name


def annotation_files(folder: Path, numbers: random.Random) -> tuple[Callable[[], Any], str]:
    """Annotation files in COCO format."""
    from mmws.data.coco_check import check_coco

    data: dict[str, Any] = {
        'images': [{'id': i, 'file_name': f'{i}.png', 'width': 8, 'height': 8} for i in (1, 2)],
        'annotations': [
            {'id': i, 'image_id': i, 'category_id': 1, 'bbox': [1, 1, 4, 4], 'area': 16,
             'iscrowd': 0, 'segmentation': [[1, 1, 5, 1, 5, 5]]} for i in (1, 2)
        ],
        'categories': [{'id': 1, 'name': 'a'}],
    }  # fmt: skip
    path = folder / 'a.json'
    for image in data['images']:
        Image.new('RGB', (8, 8)).save(folder / str(image['file_name']))
    if numbers.random() < 0.7:
        path.write_text(json.dumps(mutate(data, numbers), default=str))
    else:
        write_damaged(path, json.dumps(data).encode(), numbers)
    return lambda: check_coco(path, folder), path.name


def images(folder: Path, numbers: random.Random) -> tuple[Callable[[], Any], str]:
    """Damaged images."""
    from mmws.data.coco_check import read_image_size

    path = folder / numbers.choice(['a.png', 'a.jpg', 'a.bmp', 'a.tif', 'a.webp'])
    Image.new('RGB', (8, 8), (1, 2, 3)).save(path)
    write_damaged(path, path.read_bytes(), numbers)
    return lambda: read_image_size(path), path.name


KINDS = (options, checkpoints, foreign_weights, archives, annotation_files, images)


class Hang(BaseException):
    """An input took too long."""


def _raise_hang(number: int, frame: FrameType | None) -> None:
    raise Hang


def try_input(kind: Callable[..., Any], seed: str, results: Counter[tuple[str, str]]) -> None:
    """Make an input, read it, and count what came of it."""
    name = kind.__name__
    with tempfile.TemporaryDirectory(prefix='fuzz_') as folder:
        read, file = kind(Path(folder), random.Random(seed))
        before = {p for p in Path(folder).rglob('*') if p.is_file()}
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            quiet = io.StringIO()
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                read()
            outcome = 'read'
        except (ValueError, OSError) as error:
            text = str(error)
            outcome = 'refused' if file in text and text.strip() else 'without a name'
            left = {p for p in Path(folder).rglob('*') if p.is_file()} - before
            if left:
                outcome = 'left a file'
            if outcome != 'refused':
                print(f'{name} {seed}: {outcome}: {type(error).__name__}: {text[:200]}')
        except Hang:
            outcome = 'hang'
            print(f'{name} {seed}: hang')
        except Exception:  # whatever comes is the finding
            outcome = 'traceback'
            print(f'{name} {seed}:\n{"".join(traceback.format_exc().splitlines(True)[-6:])}')
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    results[name, outcome] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--inputs', type=int, default=200, help='of each kind, for each seed')
    parser.add_argument('--seed', type=int, action='append', help='may be given several times')
    parser.add_argument('--kind', choices=[kind.__name__ for kind in KINDS])
    args = parser.parse_args()
    import mmws.engine  # noqa: F401  (the first input is not to wait for it)

    flat_config()
    signal.signal(signal.SIGPROF, _raise_hang)
    results: Counter[tuple[str, str]] = Counter()
    for kind in KINDS:
        if args.kind in (None, kind.__name__):
            for seed in args.seed or [0]:
                for number in range(args.inputs):
                    try_input(kind, f'{seed}-{number}', results)
    outcomes = ('read', 'refused', 'without a name', 'left a file', 'hang', 'traceback')
    print('| input | ' + ' | '.join(outcomes) + ' |')
    print('| --- |' + ' ---: |' * len(outcomes))
    for kind in KINDS:
        counts = [results[kind.__name__, outcome] for outcome in outcomes]
        if any(counts):
            print(f'| {kind.__name__} | ' + ' | '.join(map(str, counts)) + ' |')
    sys.exit(any(results[key] for key in results if key[1] not in ('read', 'refused')))


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
