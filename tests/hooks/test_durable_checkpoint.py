import errno
import os
import time
from pathlib import Path

import pytest
import torch

from mmws import files
from mmws.checkpoints import find_intact
from mmws.compat import read_checkpoint
from mmws.config.structure import ConfigError
from mmws.hooks import durable_checkpoint
from mmws.hooks.durable_checkpoint import CheckpointWriter
from tests.helpers.toy_training import ToyScore, at, kill, run, toy_config


def names(folder):
    return sorted(path.name for path in Path(folder).glob('*.pth'))


def test_the_old_checkpoint_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    # Bug: with max_keep_ckpts=1 the only checkpoint is deleted before the next is written.
    present = []

    def write(path, content):
        present.append((path.name, names(tmp_path)))
        files.write_durably(path, content)

    monkeypatch.setattr(durable_checkpoint, 'write_durably', write)
    cfg = toy_config(tmp_path, length=9, val=False)
    cfg.default_hooks.checkpoint.update(max_keep_ckpts=1, save_best=None)
    run(cfg)
    assert ('iter_6.pth', ['iter_3.pth']) in present
    assert ('last_checkpoint', ['iter_3.pth', 'iter_6.pth']) in present
    assert names(tmp_path) == ['iter_9.pth']
    assert Path((tmp_path / 'last_checkpoint').read_text()) == tmp_path / 'iter_9.pth'


def test_a_checkpoint_that_is_being_written_is_removed_when_its_time_comes(tmp_path, monkeypatch):
    # Bug: the file is not there yet when the next checkpoint takes its turn, and stays for ever.
    def write(path, content):
        time.sleep(0.3)
        files.write_durably(path, content)

    monkeypatch.setattr(durable_checkpoint, 'write_durably', write)
    cfg = toy_config(tmp_path, length=4, interval=1, val=False)
    cfg.default_hooks.checkpoint.update(max_keep_ckpts=1, save_best=None)
    run(cfg)
    assert names(tmp_path) == ['iter_4.pth']


def test_the_best_checkpoint_stays_until_a_better_one_is_whole(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        durable_checkpoint,
        'write_durably',
        lambda path, content: (
            written.append((path.name, [n for n in names(tmp_path) if 'best' in n])),
            files.write_durably(path, content),
        ),
    )
    cfg = toy_config(tmp_path, length=3, interval=1)
    monkeypatch.setattr(ToyScore, 'compute_metrics', rising())
    run(cfg)
    assert ('best_score_iter_2.pth', ['best_score_iter_1.pth']) in written
    assert [name for name in names(tmp_path) if 'best' in name] == ['best_score_iter_3.pth']


def rising():
    values = iter(range(100))
    return lambda self, results: {'score': float(next(values))}


def test_a_metric_that_the_validation_does_not_give_is_named_and_nothing_is_lost(tmp_path):
    # Bug: KeyError of MMEngine after the first validation.
    cfg = toy_config(tmp_path, length=9)
    cfg.default_hooks.checkpoint.update(save_best='coco/segm_mAP', rule='greater', interval=9)
    with pytest.raises(ConfigError, match=r"save_best names 'coco/segm_mAP'.* choose one of score"):
        run(cfg)
    assert find_intact(tmp_path).path.name == 'iter_3.pth'


def test_a_second_training_by_the_same_runner_writes_to_the_same_folder(tmp_path):
    # Bug: MMEngine appends the name of the work directory once more.
    cfg = toy_config(tmp_path / 'run', length=2, interval=1, val=False)
    cfg.default_hooks.checkpoint.update(out_dir=str(tmp_path / 'out'), save_best=None)
    runner = run(cfg)
    runner.train_loop._iter = 0
    runner.train()
    assert names(tmp_path / 'out/run') == ['iter_1.pth', 'iter_2.pth']
    assert not (tmp_path / 'out/run/run').exists()


def test_a_full_disk_ends_the_training_and_keeps_what_is_whole(tmp_path, monkeypatch):
    # Bug: a traceback, and a truncated file under the final name.
    real = os.fsync

    def fsync(descriptor):
        if 'iter_6' in os.readlink(f'/proc/self/fd/{descriptor}'):
            raise OSError(errno.ENOSPC, 'No space left on device')
        real(descriptor)

    monkeypatch.setattr(files.os, 'fsync', fsync)
    with pytest.raises(OSError, match=r'iter_6\.pth cannot be written: no space left'):
        run(toy_config(tmp_path, val=False))
    assert names(tmp_path) == ['iter_3.pth']
    assert not list(tmp_path.glob('.*'))
    assert find_intact(tmp_path).path.name == 'iter_3.pth'


def test_what_a_killed_process_was_writing_is_removed_by_the_next(tmp_path):
    draft = tmp_path / f'.iter_3.pth.1{files.DRAFT_SUFFIX}'
    draft.write_bytes(b'PK')
    run(toy_config(tmp_path, length=1, interval=1, val=False))
    assert not draft.exists()


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    # Bug: the pause of the training grows with the time that the disk needs.
    monkeypatch.setattr(durable_checkpoint, 'write_durably', lambda *_: time.sleep(0.5))
    writer = CheckpointWriter(tmp_path / 'last')
    start = time.monotonic()
    writer.write(tmp_path / 'best_a.pth', b'')
    assert time.monotonic() - start < 0.25
    writer.wait()
    assert time.monotonic() - start >= 0.5


def test_an_interrupted_write_changes_nothing(tmp_path):
    path = tmp_path / 'a'
    path.write_bytes(b'old')
    with pytest.raises(TypeError):
        files.write_durably(path, 'text')
    assert path.read_bytes() == b'old'
    assert [p.name for p in tmp_path.iterdir()] == ['a']


def test_every_checkpoint_holds_its_checksums(tmp_path):
    run(toy_config(tmp_path, val=False, length=6), at(4, kill))
    path = tmp_path / 'iter_3.pth'
    weight = read_checkpoint(path)['state_dict']['layers.0.weight'].clone()
    content = path.read_bytes()
    place = content.index(weight.numpy().tobytes()) + 5
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    # Bug: PyTorch loads it, with another value in it.
    assert not torch.equal(read_checkpoint(path)['state_dict']['layers.0.weight'], weight)
    with pytest.raises(ValueError, match=r'iter_3\.pth is damaged'):
        find_intact(tmp_path)
