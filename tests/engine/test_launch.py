import os
from argparse import Namespace
from pathlib import Path

import pytest

from mmws.engine import launch
from mmws.hooks.stop import RESUMABLE, STATUS_FILE


@pytest.mark.parametrize(
    ('of_torchrun', 'stopped', 'status'),
    [(0, False, 0), (0, True, RESUMABLE), (143, True, RESUMABLE), (1, True, 1), (1, False, 1)],
)
def test_a_process_that_failed_is_no_training_to_be_resumed(
    monkeypatch, of_torchrun, stopped, status
):
    # Bug: one rank cannot save, another tells that it was stopped, and the launcher ends with the
    # status that says 'saved, resume me'.
    def run(arguments):
        if stopped:
            Path(os.environ[STATUS_FILE]).write_text(str(RESUMABLE))
        return of_torchrun

    for name in (
        STATUS_FILE,
        launch.LAUNCHER,
        launch.STARTED,
        'PET_SIGNALS_TO_HANDLE',
        'OMP_NUM_THREADS',
    ):
        monkeypatch.setenv(name, '')
    monkeypatch.setenv('TORCH_DISABLE_SHARE_RDZV_TCP_STORE', '1')
    checks = (lambda arguments: Namespace(), lambda parsed: None)
    monkeypatch.setattr(launch, '_CHECKS', {'train': checks})
    monkeypatch.setattr(launch, 'choose_threads', lambda: None)
    monkeypatch.setattr(launch, 'check_process_count', lambda count: None)
    monkeypatch.setattr(launch, '_run', run)
    with pytest.raises(SystemExit) as ended:
        launch.main(['train', '2', 'train.py', 'config.py'])
    assert ended.value.code == status
