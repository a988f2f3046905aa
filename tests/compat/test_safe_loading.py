"""A file from elsewhere is data: it never runs code."""

import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, load_checkpoint

from mmws.compat import CheckpointError, loading
from tests.helpers.toy_training import run, toy_config


class Opens:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder and its address."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    (tmp_path / 'www').mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / 'www'))
    monkeypatch.setattr(SimpleHTTPRequestHandler, 'log_message', lambda *args: None)
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield tmp_path / 'www', f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def evil(path, ran):
    torch.save({'state_dict': {}, 'extra': Opens(ran)}, path)
    return path


def load_with_init_cfg(name):
    module = BaseModule(init_cfg=dict(type='Pretrained', checkpoint=str(name)))
    module.init_weights()


@pytest.mark.parametrize(
    'load',
    [
        lambda name: CheckpointLoader.load_checkpoint(str(name)),
        lambda name: load_checkpoint(torch.nn.Linear(1, 1), str(name)),
        load_with_init_cfg,
    ],
)
@pytest.mark.parametrize('where', ['file', 'url'])
def test_a_pickle_is_never_run(served, tmp_path, load, where):
    # Bug: what is behind a URL is unpickled unchecked, by MMEngine and by torch.hub.
    folder, url = served
    evil(folder / 'x.pth', tmp_path / 'ran')
    with pytest.raises(CheckpointError, match=r'x\.pth cannot be read'):
        load(folder / 'x.pth' if where == 'file' else f'{url}/x.pth')
    assert not (tmp_path / 'ran').exists()


def test_weights_behind_a_url_are_loaded_once(served):
    folder, url = served
    torch.save({'weight': torch.ones(1, 1), 'bias': torch.ones(1)}, folder / 'w.pth')
    linear = torch.nn.Linear(1, 1)
    load_checkpoint(linear, f'{url}/w.pth')
    (folder / 'w.pth').unlink()
    load_checkpoint(torch.nn.Linear(1, 1), f'{url}/w.pth')
    assert linear.weight.item() == 1


def test_a_server_without_the_file_is_one_error(served):
    _, url = served
    with pytest.raises(CheckpointError, match=r'gone\.pth cannot be downloaded: .*404'):
        CheckpointLoader.load_checkpoint(f'{url}/gone.pth')


def test_published_files_are_compared_with_the_hash_in_their_name(served, monkeypatch):
    folder, url = served
    monkeypatch.setattr(loading, '_HOSTS_WITH_HASHES', ('127.0.0.1',))
    torch.save({'weight': torch.ones(1)}, folder / 'w.pth')
    digits = hashlib.sha256((folder / 'w.pth').read_bytes()).hexdigest()[:8]
    for name in (f'w-{digits}.pth', 'w-0badc0de.pth'):
        (folder / name).write_bytes((folder / 'w.pth').read_bytes())
    CheckpointLoader.load_checkpoint(f'{url}/w-{digits}.pth')
    with pytest.raises(CheckpointError, match=r'w-0badc0de\.pth cannot be downloaded: .*hash'):
        CheckpointLoader.load_checkpoint(f'{url}/w-0badc0de.pth')


def test_the_config_in_a_checkpoint_is_not_run_on_resume(tmp_path):
    # Bug: MMEngine executes it, to compare a key that no config has.
    cfg = toy_config(tmp_path / 'w', length=3, val=False)
    run(cfg)
    checkpoint = torch.load(tmp_path / 'w/iter_3.pth')
    ran = tmp_path / 'ran'
    checkpoint['meta']['config'] = f"import builtins\nbuiltins.open({str(ran)!r}, 'w').close()"
    torch.save(checkpoint, tmp_path / 'foreign.pth')
    cfg.train_cfg.max_iters = 4
    run(cfg, resume=str(tmp_path / 'foreign.pth'))
    assert not ran.exists()
    assert (tmp_path / 'w/iter_4.pth').exists()


def test_pytorch_without_a_default_check_is_told_to_check(tmp_path, monkeypatch):
    # Bug: `torch.load` of PyTorch < 2.6, and with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD, runs pickles.
    seen = []
    monkeypatch.setattr(
        torch, 'load', lambda *args, **options: seen.append(options['weights_only']) or {}
    )
    (tmp_path / 'x.pth').touch()
    CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'))
    assert seen == [True]
