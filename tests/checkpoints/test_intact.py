import os

import pytest
import torch

from mmws.checkpoints import find_intact
from mmws.compat import CheckpointError


def save(folder, iteration, time='20260101_000000', **changes):
    checkpoint = dict(
        meta=dict(epoch=0, iter=iteration, time=time),
        state_dict={'weight': torch.full((1000,), float(iteration))},
        optimizer={'state': {}, 'param_groups': []},
        message_hub={},
    )
    checkpoint.update(changes)
    torch.save(checkpoint, folder / f'iter_{iteration}.pth')
    return folder / f'iter_{iteration}.pth'


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b'')


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def fill_with_nan(path):
    checkpoint = torch.load(path)
    checkpoint['state_dict']['weight'][7] = torch.nan
    torch.save(checkpoint, path)


def other_structure(path):
    torch.save([1, 2], path)


def without_meta(path):
    checkpoint = torch.load(path)
    checkpoint['meta'] = {'iter': 'four', 'epoch': 10**400}
    torch.save(checkpoint, path)


def other_weights(path):
    checkpoint = torch.load(path)
    checkpoint['state_dict'] = (1, 2)
    torch.save(checkpoint, path)


@pytest.mark.parametrize(
    'damage', [other_weights, truncate, empty, flip, fill_with_nan, other_structure, without_meta]
)
def test_the_newest_intact_checkpoint_is_found(tmp_path, damage):
    # Bug: the last one is taken, damaged or not, and the intact one before it is of no use.
    save(tmp_path, 2)
    damage(save(tmp_path, 4))
    found = find_intact(tmp_path)
    assert found.path == tmp_path / 'iter_2.pth'
    (reason,) = found.skipped
    assert 'iter_4.pth' in reason


def test_damaged_checkpoints_alone_do_not_start_the_training_anew(tmp_path):
    truncate(save(tmp_path, 2))
    with pytest.raises(CheckpointError, match=r'no checkpoint in .* is intact \(.*iter_2\.pth'):
        find_intact(tmp_path)


def test_without_checkpoints_there_is_nothing_to_resume(tmp_path):
    assert find_intact(tmp_path).path is None
    torch.save({'state_dict': {}}, tmp_path / 'best_score_iter_3.pth')
    torch.save({'weight': torch.ones(2)}, tmp_path / 'pretrained.pth')
    assert find_intact(tmp_path).path is None
    assert find_intact(tmp_path / 'missing').path is None


@pytest.mark.parametrize('content', ['', '/somewhere/else/iter_9.pth', 'a\0b', '\n', 'ä' * 5000])
def test_what_last_checkpoint_holds_does_not_lose_the_work(tmp_path, content):
    # Bug: an empty file, left by a crash, is a traceback beside two intact checkpoints.
    save(tmp_path, 2)
    (tmp_path / 'last_checkpoint').write_text(content)
    assert find_intact(tmp_path).path.name == 'iter_2.pth'


def test_the_newest_is_the_one_written_last(tmp_path):
    # Bug: a training was started anew in the work dir of a longer one, whose last one is taken.
    save(tmp_path, 90, time='20260101_000000')
    save(tmp_path, 10, time='20260102_000000')
    assert find_intact(tmp_path).path.name == 'iter_10.pth'


def test_checkpoints_in_another_folder_are_found_by_the_pointer(tmp_path):
    (tmp_path / 'out').mkdir()
    path = save(tmp_path / 'out', 3)
    (tmp_path / 'last_checkpoint').write_text(str(path))
    assert find_intact(tmp_path).path == path


@pytest.mark.parametrize('template', ['model_{}.pt', 'ckpt_{}', '{}.2.ckpt'])
@pytest.mark.parametrize('folder', ['.', 'out'])
def test_checkpoints_with_a_name_of_their_own_are_found(tmp_path, template, folder):
    # Bug: filename_tmpl gives them another suffix than .pth, and the training starts anew.
    (tmp_path / folder).mkdir(exist_ok=True)
    paths = [tmp_path / folder / template.format(iteration) for iteration in (8, 12)]
    for iteration, path in zip((8, 12), paths, strict=True):
        save(tmp_path, iteration).rename(path)
    (tmp_path / 'last_checkpoint').write_text(str(paths[1]))
    (tmp_path / 'notes').write_text('no checkpoint')
    found = find_intact(tmp_path)
    assert (found.path.resolve(), found.skipped) == (paths[1].resolve(), [])
    truncate(paths[1])
    found = find_intact(tmp_path)
    assert found.path.resolve() == paths[0].resolve()
    assert len(found.skipped) == 1


@pytest.mark.parametrize(
    'named', ['/disk/iter_9.pth', 's3://bucket/iter_9.pth', 'a\0b', 'ä' * 5000]
)
def test_a_checkpoint_that_is_named_but_not_there_does_not_start_the_training_anew(tmp_path, named):
    # Bug: the disk with the checkpoints is not mounted, and the training begins again.
    (tmp_path / 'last_checkpoint').write_text(named)
    torch.save({'state_dict': {}}, tmp_path / 'best_score_iter_3.pth')
    with pytest.raises(CheckpointError, match=r'last_checkpoint names .* not a file on this mach'):
        find_intact(tmp_path)


def test_checkpoints_without_an_optimizer_do_not_start_the_training_anew(tmp_path):
    # Bug: with save_optimizer=False no file can be resumed from, which nothing tells.
    torch.save({'state_dict': {}, 'meta': {}}, tmp_path / 'iter_3.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_3.pth'))
    with pytest.raises(CheckpointError, match='holds no state of a training'):
        find_intact(tmp_path)
