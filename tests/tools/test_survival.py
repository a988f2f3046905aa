"""What a machine does to a training: processes die or stop, disks are full or read-only."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
import torch

from mmws.checkpoints import find_intact
from mmws.compat import read_checkpoint
from tests.helpers.digits_config import small_digits, write_digits_config
from tests.helpers.paths import TOOLS
from tests.helpers.processes import error_line, run, run_tool

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(torch.cuda.is_available(), reason='the processes would need a GPU each'),
]

# Once, at the start of iteration 4, one process does to itself what $FAULT says.
FAULT = """
import os, signal
from pathlib import Path
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Fault(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        done = Path(runner.work_dir, 'fault')
        if runner.iter == 3 and runner.rank == 1 and not done.exists():
            done.write_text(str(os.getpid()))
            os.kill(os.getpid(), getattr(signal, os.environ['FAULT']))
"""
SHORT = """
custom_imports = dict(imports=['mmws', 'fault'])
custom_hooks = [dict(type='mmengine.Fault')]
train_cfg = dict(max_iters=6, val_interval=100)
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('survival')
    (folder / 'fault.py').write_text(FAULT)
    data = small_digits(folder / 'digits', num_train=4, num_val=2)
    return write_digits_config(folder / 'tiny.py', data, SHORT)


def train_on_two(config, work_dir, *options, **more):
    path = os.pathsep.join([str(TOOLS.parent), str(config.parent)])
    return run(
        TOOLS / 'dist_train.sh', config, 2, '--work-dir', work_dir, *options,
        PYTHONPATH=path, OMP_NUM_THREADS=1, **more,
    )  # fmt: skip


def test_a_process_that_dies_is_replaced(config, tmp_path):
    # Bugs: all processes end; or the restarted ones begin anew, or wait for the old ones for ever.
    output = train_on_two(config, tmp_path, '--max-restarts', 1, FAULT='SIGKILL', timeout=600)
    assert (tmp_path / 'fault').exists()
    assert 'resumed epoch: 0, iter: 2' in output
    assert read_checkpoint(tmp_path / 'iter_6.pth')['meta']['iter'] == 6


def test_a_process_that_stops_ends_the_run(config, tmp_path):
    # Bug: the others wait for it for half an hour, or for ever.
    start = time.monotonic()
    train_on_two(
        config, tmp_path, '--cfg-options', 'env_cfg.dist_cfg.timeout=15',
        code=1, FAULT='SIGSTOP', timeout=600,
    )  # fmt: skip
    assert time.monotonic() - start < 300
    assert not os.path.exists(f'/proc/{(tmp_path / "fault").read_text()}')
    assert find_intact(tmp_path).path.name == 'iter_2.pth'


@pytest.fixture
def disk(tmp_path):
    """A file system of 16 MiB, and how to mount it again with other options."""
    folder = tmp_path / 'disk'
    folder.mkdir()

    def mount(options):
        command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip('mount is not permitted')

    mount('size=16m')
    yield folder, mount
    subprocess.run(['umount', str(folder)], check=True)


def test_a_full_disk_is_one_line_and_keeps_what_is_there(config, disk, tmp_path):
    # Bugs: a traceback; a truncated file under the name of the checkpoint.
    folder, mount = disk
    work_dir = folder / 'w'
    arguments = [config, '--work-dir', work_dir, '--cfg-options', 'train_cfg.max_iters=2']
    mount_size = 'remount,size={}'
    mount(mount_size.format('512m'))
    run_tool('train.py', *arguments, PYTHONPATH=path_of(config))
    used = sum(file.stat().st_size for file in work_dir.rglob('*') if file.is_file())
    mount(mount_size.format(used + (2 << 20)))
    output = run_tool(
        'train.py', config, '--work-dir', work_dir, '--resume', code=1, PYTHONPATH=path_of(config)
    )
    assert 'iter_4.pth cannot be written: no space left' in error_line(output)
    assert [path.name for path in work_dir.glob('iter_*.pth')] == ['iter_2.pth']
    assert find_intact(work_dir).path.name == 'iter_2.pth'
    mount(mount_size.format('512m'))
    run_tool('train.py', config, '--work-dir', work_dir, '--resume', PYTHONPATH=path_of(config))
    assert (work_dir / 'iter_6.pth').exists()


def test_a_read_only_work_dir_is_one_line(config, disk):
    folder, mount = disk
    (folder / 'w').mkdir()
    mount('remount,ro')
    output = run_tool(
        'train.py', config, '--work-dir', folder / 'w', code=1, PYTHONPATH=path_of(config)
    )
    assert str(folder / 'w') in error_line(output)


def path_of(config):
    return os.pathsep.join([str(TOOLS.parent), str(config.parent)])
