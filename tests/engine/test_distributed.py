import socket

import pytest
import torch
from mmengine.config import Config

from mmws.engine import distributed
from mmws.engine.launch import torchrun_arguments


def test_a_free_port_is_kept_and_a_busy_one_replaced():
    # Bug: two trainings on one machine, the second dies with "address already in use".
    with socket.socket() as busy:
        busy.bind(('', 0))
        busy.listen()
        port = busy.getsockname()[1]
        other = distributed.choose_port(port)
        assert other != port
    assert distributed.choose_port(other) == other


@pytest.mark.parametrize(
    ('gpus', 'processes', 'error'),
    [(0, 8, None), (8, 8, None), (2, 8, '8 processes .* 2 GPU'), (1, 0, 'at least 1')],
)
def test_more_processes_than_gpus_are_refused(monkeypatch, gpus, processes, error):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    if error is None:
        distributed.check_process_count(processes)
    else:
        with pytest.raises(ValueError, match=error):
            distributed.check_process_count(processes)


def test_torchrun_arguments_follow_the_environment(monkeypatch):
    monkeypatch.setenv('NNODES', '2')
    monkeypatch.setenv('NODE_RANK', '1')
    monkeypatch.setenv('MASTER_ADDR', '10.1.2.3')
    monkeypatch.setenv('PORT', '31000')
    assert torchrun_arguments(1) == [
        '--nproc_per_node=1',
        '--nnodes=2',
        '--node_rank=1',
        '--master_addr=10.1.2.3',
        '--master_port=31000',
    ]
    for port in ('any', '70000'):
        monkeypatch.setenv('PORT', port)
        with pytest.raises(ValueError, match=f"PORT must be a number, got '{port}'"):
            torchrun_arguments(1)


def test_several_machines_need_the_address_of_the_first(monkeypatch):
    # Bug: every machine waits for the others at its own 127.0.0.1.
    monkeypatch.setenv('NNODES', '2')
    monkeypatch.delenv('MASTER_ADDR', raising=False)
    with pytest.raises(ValueError, match='needs MASTER_ADDR'):
        torchrun_arguments(1)


def test_without_a_port_torchrun_finds_one(monkeypatch):
    # Bug: two trainings started together find the same port free.
    monkeypatch.delenv('PORT', raising=False)
    monkeypatch.delenv('NNODES', raising=False)
    assert torchrun_arguments(2) == ['--standalone', '--nproc_per_node=2']


@pytest.mark.skipif(torch.cuda.is_available(), reason='with CUDA, MMEngine starts the group')
@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_launchers_that_need_cuda_are_refused_without_it(launcher):
    with pytest.raises(ValueError, match=f'`launcher` {launcher} needs CUDA'):
        distributed.prepare_distributed(Config(dict(launcher=launcher)))
