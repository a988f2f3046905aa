"""Inputs that one function reads: options, checkpoints, archives, images, servers."""

from __future__ import annotations

import functools
import io
import random
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from .mutators import PICKLED_VALUES, TEXT_VALUES, Input, damage, damage_file, mutate
from .settings import CONFIG, flat_config


def options(folder: Path, numbers: random.Random) -> Input:
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
        args = cli.parse_train_args([str(CONFIG), '--cfg-options', text])
        check_structure(load_config(flat_config(), args.cfg_options))

    key = text.partition('=')[0].strip().split('.')[0]
    return Input(read, (key, '--cfg-options'))


def sound_checkpoint() -> dict[str, Any]:
    """Return a checkpoint of the form that MMEngine writes."""
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


def checkpoints(folder: Path, numbers: random.Random) -> Input:
    """Checkpoints of odd structure, and damaged files."""
    from mmws.checkpoints import Checkpoint, check_finite, check_undamaged, find_intact
    from mmws.compat import CheckpointError, read_checkpoint

    path = folder / 'iter_4.pth'
    contents = sound_checkpoint()
    fields: tuple[str, ...] = ()
    if numbers.random() < 0.6:
        contents, fields = mutate(contents, numbers, (*TEXT_VALUES, *PICKLED_VALUES))
        torch.save(contents, path)
    else:
        torch.save(contents, path)
        damage_file(path, numbers)

    def read() -> None:
        try:
            find_intact(folder)
        except CheckpointError as error:
            if path.name not in str(error):
                raise
        check_undamaged(path)
        check_finite(read_checkpoint(path), str(path))
        Checkpoint.read(path)

    return Input(read, (path.name,), fields)


def foreign_weights(folder: Path, numbers: random.Random) -> Input:
    """Files that a checkpoint of another library is wanted from."""
    from mmws.checkpoints import SOURCES, convert_checkpoint

    source = numbers.choice(sorted(SOURCES))
    path = folder / numbers.choice(['x.pth', 'x.npz', 'x.safetensors'])
    names = [f'{name}.weight' for name in ('conv1', 'layer1.0.conv1', 'fc')]
    weights = {numbers.choice(names): torch.rand(8, 3, 3, 3), 'bn1.weight': torch.rand(8)}
    fields: tuple[str, ...] = ()
    if path.suffix == '.npz':
        arrays: dict[str, Any] = {key: value.numpy() for key, value in weights.items()}
        np.savez(path, **arrays)
    elif path.suffix == '.safetensors':
        save_file(weights, path)
    else:
        changed, fields = mutate(weights, numbers, (*TEXT_VALUES, *PICKLED_VALUES))
        torch.save(changed, path)
        fields = tuple(field for field in fields if field in changed)
    if numbers.random() < 0.4:
        damage_file(path, numbers)
        fields = ()
    read = functools.partial(convert_checkpoint, path, source, folder / 'out.pth')
    return Input(read, (path.name,), fields)


def archives(folder: Path, numbers: random.Random) -> Input:
    """Zip and tar files that are damaged, or have entries that lead elsewhere."""
    from mmws.data.archives import unpack

    path = folder / numbers.choice(['a.zip', 'a.tar', 'a.tgz'])
    text = b'some text ' * 300
    names = ['a/b.txt', 'a/c.txt']
    if numbers.random() < 0.3:
        names[1] = numbers.choice(
            [
                '../c.txt',
                '/tmp/fuzz_c.txt',
                'a/../../c',
                'a',
                '',
                'a/b.txt/c',
                'x' * 300,
                'a/\udcff',
            ]
        )
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w', numbers.choice([0, 8, 12, 14])) as archive:
            for name in names:
                archive.writestr(name.encode('utf-8', 'replace').decode() or 'x', text)
    else:
        kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b'Z']
        with tarfile.open(path, 'w:gz' if path.suffix == '.tgz' else 'w') as archive:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                if numbers.random() < 0.15:
                    entry.type = numbers.choice(kinds)
                    entry.size = 0
                    entry.linkname = numbers.choice(['/etc/passwd', '../../x', 'a/b.txt', ''])
                archive.addfile(entry, io.BytesIO(text))
    if numbers.random() < 0.7:
        damage_file(path, numbers)
    return Input(lambda: unpack(path, folder / 'out'), (path.name,))


def images(folder: Path, numbers: random.Random) -> Input:
    """Damaged images, and images of odd sizes, channels and depths."""
    from mmws.data.coco_check import read_image_size
    from mmws.data.coco_check.pixels import decode_image

    path = folder / numbers.choice(['a.png', 'a.jpg', 'a.bmp', 'a.tif', 'a.webp', 'a.ico', 'a.gif'])
    mode = numbers.choice(['RGB', 'RGB', 'L', 'RGBA', 'P', 'CMYK', '1', 'I', 'I;16', 'F', 'LA'])
    size = numbers.choice([(8, 8), (1, 1), (200, 3)])
    try:
        exif = Image.Exif()
        exif[274] = numbers.choice([1, 3, 6, 99])  # the orientation
        Image.new(mode, size).save(path, exif=exif)
    except (OSError, KeyError, ValueError):  # the format has no such images
        Image.new('RGB', size).save(path)
    if numbers.random() < 0.8:
        damage_file(path, numbers)

    def read() -> None:
        state = decode_image(path)
        if state.error:
            raise ValueError(f'{path}: {state.error}')
        read_image_size(path)

    return Input(read, (path.name,))


class _FaultyHandler(BaseHTTPRequestHandler):
    """Sends a file with faults."""

    content: bytes = b''
    faults: Callable[[], str]
    protocol_version = 'HTTP/1.1'

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        fault = type(self).faults()
        length: Any = len(self.content)
        if fault in ('500', '503', '404', '302', '200'):
            self.send_response(int(fault))
            self.send_header('Location', self.path)
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        if fault == 'close':
            self.close_connection = True
            return
        length = {'more': length + 999, 'less': length // 2, 'odd': 'x', 'negative': -5}.get(
            fault, length
        )
        self.send_response(206 if fault == 'partial' else 200)
        if fault != 'no length':
            self.send_header('Content-Length', str(length))
        if fault == 'range':
            self.send_header('Content-Range', 'bytes 5-3/x')
        self.end_headers()
        if self.command == 'GET':
            self.wfile.write(self.content[: len(self.content) // (2 if fault == 'half' else 1)])
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


def servers(folder: Path, numbers: random.Random) -> Input:
    """Servers that send less, more, something else, or nothing."""
    from mmws.data import download

    faults = ['none', '500', '503', '404', '302', '200', 'close', 'more', 'less', 'odd',
              'negative', 'partial', 'no length', 'range', 'half']  # fmt: skip
    always = numbers.choice(faults)
    some = numbers.random()
    content = bytes(numbers.randrange(256) for _ in range(5000))
    path = folder / 'file.bin'
    if numbers.random() < 0.3:
        Path(f'{path}.part').write_bytes(damage(content, numbers))

    def read() -> None:
        handler = type('Handler', (_FaultyHandler,), {
            'content': content,
            'faults': staticmethod(lambda: always if numbers.random() < some else 'none'),
        })  # fmt: skip
        server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with mock.patch.object(time, 'sleep'):
            download.fetch(f'http://127.0.0.1:{server.server_port}/file.bin', path)

    return Input(read, ('file.bin',))
