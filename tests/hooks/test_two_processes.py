import pytest
import torch

from mmws.checkpoints import find_intact
from mmws.compat import read_checkpoint
from tests.helpers.processes import run_python
from tests.helpers.toy_training import differences

# Each process trains on its part of the images; rank 1 may be told to stop, or die.
PROGRAM = """
import errno, os, signal, sys, time
from pathlib import Path
from mmengine.dist import get_rank
from mmws.checkpoints import find_intact
from mmws.engine.distributed import finish_distributed, prepare_distributed
from mmws.hooks import durable_checkpoint
from tests.helpers.toy_training import *

work_dir, how, by_epoch = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == 'True'
options = dict(length=3, interval=1) if by_epoch else dict(length=10, interval=3)
cfg = toy_config(work_dir, by_epoch=by_epoch, accumulate=2, ema=True, workers=1, val=False,
                 launcher='pytorch', **options)
cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', find_unused_parameters=False)
prepare_distributed(cfg)


def interrupt(runner, data_batch):
    if get_rank() == 1 or how in ('slow', 'full'):
        os.kill(os.getpid(), signal.SIGKILL if how == 'kill' else signal.SIGTERM)


def write_slowly(path, content):
    if path.name == 'iter_8.pth':
        time.sleep(6 if how == 'slow' else 1)
    if how == 'full' and path.name == 'iter_8.pth':
        raise OSError(errno.ENOSPC, 'no space')
    write(path, content)


if how in ('slow', 'full'):
    write, durable_checkpoint.write_durably = durable_checkpoint.write_durably, write_slowly
action = at(6, interrupt) if how in ('stop', 'kill', 'slow', 'full') else None
runner = run(cfg, action, resume=str(find_intact(work_dir).path) if how == 'resume' else None)
del runner
finish_distributed()
"""


def launch(work_dir, how, by_epoch, code=0, **env):
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    program = work_dir.parent / 'program.py'
    program.write_text(PROGRAM)
    return run_python(
        '-W', 'ignore', *torchrun, program, work_dir, how, by_epoch,
        code=code, OMP_NUM_THREADS=1, **env,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='the processes would need a GPU each')
@pytest.mark.parametrize(
    ('how', 'by_epoch', 'iteration'), [('kill', False, 6), ('stop', True, 7), ('stop', False, 7)]
)
def test_two_processes_go_on_as_if_they_had_not_been_interrupted(
    tmp_path, how, by_epoch, iteration
):
    # Bugs: only the first process's random numbers are restored; processes stop after different
    # iterations, and wait for each other for ever.
    last = 'epoch_3.pth' if by_epoch else 'iter_10.pth'
    launch(tmp_path / 'full', 'train', by_epoch)
    launch(tmp_path / 'part', how, by_epoch, code=1)
    meta = read_checkpoint(find_intact(tmp_path / 'part').path)['meta']
    # Rank 1 is told in iteration 7, and the other one learns of it by the end of the next.
    assert meta['iter'] == (iteration if how == 'kill' else iteration + 1)
    launch(tmp_path / 'part', 'resume', by_epoch)
    assert differences(tmp_path / 'full' / last, tmp_path / 'part' / last) == []


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='the processes would need a GPU each')
def test_all_processes_wait_for_the_checkpoint_before_they_exit(tmp_path):
    # Bug: the second process exits while the first one writes. torchrun then sends SIGTERM to the
    # first, which takes that for the second signal and ends without a checkpoint.
    launch(tmp_path / 'part', 'slow', False, code=1)
    assert read_checkpoint(find_intact(tmp_path / 'part').path)['meta']['iter'] == 8


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='the processes would need a GPU each')
def test_a_checkpoint_that_cannot_be_written_is_a_failure_of_all_processes(tmp_path):
    # Bug: the second process tells the launcher that the training was saved; the disk is full.
    status = tmp_path / 'status'
    output = launch(tmp_path / 'part', 'full', False, code=1, MMWS_STATUS_FILE=status)
    assert 'iter_8.pth cannot be written: no space left' in output
    assert not status.exists()
    assert find_intact(tmp_path / 'part').path.name == 'iter_6.pth'
