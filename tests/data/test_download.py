"""Against a server of this machine that can break connections and refuse ranges."""

import contextlib
import errno
import hashlib
import io
import os
import re
import shutil
import tarfile
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmws.data import download as module
from mmws.data.archives import unpack
from mmws.data.download import Archive, download, download_hint
from mmws.data.image_files import files_in
from tests.helpers.processes import call_tool

IMAGE = os.urandom(100_000)


class Server:
    """Serves ``files``; the first ``breaks`` transfers of a file break off in their middle."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.breaks = 0
        self.errors = 0  # answers of 503 before the first good one
        self.announced_too_much = 0
        self.sent: list[tuple[str, int]] = []  # (name, first byte) of each transfer
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                name = self.path.rpartition('/')[2]
                if server.errors:
                    server.errors -= 1
                    return self.send_error(503)
                if name not in server.files:
                    return self.send_error(404)
                content, start = server.files[name], 0
                asked = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range') or '')
                if asked and server.ranges:
                    start = int(asked[1])
                    if start >= len(content):
                        return self.send_error(416)
                    self.send_response(206)
                else:
                    self.send_response(200)
                length = len(content) - start + server.announced_too_much
                self.send_header('Content-Length', str(length))
                server.sent.append((name, start))  # before the client learns of it
                self.end_headers()
                end = len(content)
                # The first question is for the size.
                if server.breaks and [n for n, _ in server.sent].count(name) > 1:
                    server.breaks -= 1
                    end = (start + end) // 2
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(content[start:end])

        self.http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.http.server_port}'
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def starts(self, name: str) -> 'list[int]':
        """Return the first byte of each transfer of a file, without the question for its size."""
        return [start for sent, start in self.sent if sent == name][1:]


def tar_bytes(files: 'dict[str, bytes]', mode: str = 'w') -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zip_bytes(files: 'dict[str, bytes]') -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch):
    server = Server()
    server.files = {
        'a.zip': zip_bytes({'train/1.jpg': IMAGE, 'annotations/a.json': b'{}'}),
        'b.tar': tar_bytes({'train/2.jpg': IMAGE[::-1]}),
        'c.tgz': tar_bytes({'release/dataset/img/3.jpg': IMAGE, 'release/code.m': b''}, 'w:gz'),
    }

    def archive(name, *args, **options):
        md5 = hashlib.md5(server.files[name]).hexdigest()
        return Archive(f'{server.url}/{name}', md5, *args, **options)

    monkeypatch.setattr(module, '_PAUSE', 0.0)
    monkeypatch.setattr(
        module,
        'DATASETS',
        {
            'ab': (archive('a.zip', ('ab/train',), 'ab'), archive('b.tar', ('ab/train',), 'ab')),
            'c': (archive('c.tgz', ('c',), 'c', top='release/dataset'),),
        },
    )
    yield server
    server.http.shutdown()
    server.http.server_close()


def tree(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob('*') if p.is_file())


DONE = [
    'ab/annotations/a.json',
    'ab/train/1.jpg',
    'ab/train/2.jpg',
    'c/img/3.jpg',
    'downloads/a.zip.done',
    'downloads/b.tar.done',
    'downloads/c.tgz.done',
]


def test_archives_of_one_folder_are_merged_and_then_left_alone(server, tmp_path):
    # Bug: VOC's test archive replaces what the trainval archive had brought.
    download(['ab', 'c'], tmp_path)
    assert tree(tmp_path) == DONE
    assert (tmp_path / 'ab/train/1.jpg').read_bytes() == IMAGE
    sent = len(server.sent)
    download(['ab', 'c'], tmp_path)
    assert len(server.sent) == sent
    # Bug: what was deleted since is thought to be there.
    shutil.rmtree(tmp_path / 'c')
    download(['c'], tmp_path)
    assert tree(tmp_path) == DONE


def test_a_broken_connection_is_opened_anew_where_it_broke(server, tmp_path):
    # Bug: 18 GiB from the beginning, or a hole where the first connection ended.
    server.breaks = 3
    download(['ab'], tmp_path)
    size = len(server.files['a.zip'])
    assert server.starts('a.zip') == [0, size // 2, size * 3 // 4, size * 7 // 8]
    assert (tmp_path / 'ab/train/1.jpg').read_bytes() == IMAGE


def test_the_next_call_goes_on_with_what_an_interrupted_one_left(server, tmp_path):
    (tmp_path / 'downloads').mkdir()
    (tmp_path / 'downloads' / 'a.zip.part').write_bytes(server.files['a.zip'][:777])
    (tmp_path / 'downloads' / 'b.tar.part').write_bytes(server.files['b.tar'])  # lacks the rename
    download(['ab'], tmp_path)
    assert server.starts('a.zip') == [777]
    assert set(tree(tmp_path)) < set(DONE)


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / 'downloads').mkdir()
    (tmp_path / 'downloads' / 'c.tgz.part').write_bytes(server.files['c.tgz'] + b'more')
    download(['c'], tmp_path)
    assert (tmp_path / 'c/img/3.jpg').read_bytes() == IMAGE


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    # Bug: the whole file is appended to the part.
    server.ranges, server.breaks = False, 1
    download(['ab'], tmp_path)
    assert server.starts('a.zip') == [0, 0]
    assert (tmp_path / 'ab/train/1.jpg').read_bytes() == IMAGE


def test_a_server_that_always_breaks_off_is_given_up_and_the_part_kept(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, '_receive', lambda url, part: False)
    with pytest.raises(OSError, match=r'a\.zip: the connection broke.*it goes on from there'):
        download(['ab'], tmp_path)


def test_a_server_that_announces_more_than_it_has_is_given_up(server, tmp_path):
    # Bug: the same bytes are downloaded for ever.
    server.announced_too_much = 1000
    with pytest.raises(OSError, match=r'a\.zip: the connection broke'):
        download(['ab'], tmp_path)
    assert len(server.starts('a.zip')) < 20


def test_a_server_that_is_busy_at_first_is_asked_again(server, tmp_path):
    # Bug: the first question, for the size, is not repeated.
    server.errors = 2
    download(['c'], tmp_path)
    assert (tmp_path / 'c/img/3.jpg').exists()
    server.errors = 1000
    with pytest.raises(OSError, match='the server answers 503'):
        download(['ab'], tmp_path)


@pytest.mark.parametrize('name', ['a.zip', 'b.tar', 'c.tgz'])
@pytest.mark.parametrize('damage', ['cut', 'flip', 'empty'])
def test_a_damaged_archive_is_one_error_that_names_it(server, tmp_path, name, damage):
    # Bug: a traceback out of zipfile, zlib or tarfile.
    content = bytearray(server.files[name])
    if damage == 'flip':
        for i in range(0, len(content), 3):
            content[i] ^= 0xFF
    path = tmp_path / name
    path.write_bytes(content[: {'cut': len(content) // 2, 'empty': 0}.get(damage, len(content))])
    with pytest.raises(ValueError, match=rf'archive .*{re.escape(name)} is incomplete or damaged'):
        unpack(path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_wrong_archive_is_named_and_deleted(server, tmp_path):
    # Bug: a proxy's page of HTML is unpacked, or taken for the file at every next try.
    server.files['b.tar'] = b'<html>please log in</html>'
    with pytest.raises(ValueError, match=rf'{server.url}/b\.tar: what came has MD5 \w+, published'):
        download(['ab'], tmp_path)
    assert not list((tmp_path / 'downloads').glob('b.tar*'))
    assert (tmp_path / 'ab/train/1.jpg').exists()


@pytest.mark.parametrize('reason', ['404', 'refused'])
def test_a_server_without_the_file_is_one_line_before_anything_is_sent(server, tmp_path, reason):
    if reason == '404':
        del server.files['b.tar']
        message = rf'^{server.url}/b\.tar: the server answers 404 Not Found$'
    else:
        server.http.shutdown()
        server.http.server_close()
        message = rf'^{server.url}/a\.zip cannot be reached: .*refused'
    with pytest.raises(OSError, match=message):
        download(['ab'], tmp_path)
    assert tree(tmp_path) == []


def test_a_full_disk_is_told_before_and_during_the_work(server, tmp_path, monkeypatch):
    usage = namedtuple('usage', 'free')
    with monkeypatch.context() as patch:
        patch.setattr(shutil, 'disk_usage', lambda path: usage(250_000))
        with pytest.raises(OSError, match=r'^0\.3 MiB are needed .* has 0\.2 MiB free'):
            download(['ab'], tmp_path)
    assert len(server.sent) == 2  # the questions for the sizes
    real = os.replace

    def full(source, target):
        if str(source).endswith('.unpacked'):
            raise OSError(errno.ENOSPC, 'No space left on device')
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', full)
        with pytest.raises(
            OSError, match=r'No space left on device: .* make room and run the same'
        ):
            download(['ab'], tmp_path)
    assert (tmp_path / 'downloads' / 'a.zip').exists()
    assert not (tmp_path / 'downloads' / 'a.zip.unpacked').exists()
    download(['ab'], tmp_path)
    assert server.starts('a.zip') == [0, 0]  # once more for its size, once for all of it


def test_a_file_of_the_user_is_not_replaced(server, tmp_path):
    mine = tmp_path / 'ab' / 'annotations' / 'a.json'
    mine.parent.mkdir(parents=True)
    mine.write_text('{"mine": 1}')
    with pytest.raises(FileExistsError, match=r'annotations/a\.json is there and not what'):
        download(['ab'], tmp_path)
    assert mine.read_text() == '{"mine": 1}'
    assert not (tmp_path / 'ab' / 'train').exists()


def test_archives_are_kept_and_own_copies_taken(server, tmp_path):
    (tmp_path / 'downloads').mkdir()
    (tmp_path / 'downloads' / 'c.tgz').write_bytes(server.files['c.tgz'])
    download(['c'], tmp_path, keep_archives=True)
    assert server.sent == []
    assert (tmp_path / 'downloads' / 'c.tgz').exists()


def test_tool(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call_tool('download_dataset.py', 'ab', 'c')
    assert tree(tmp_path / 'data') == DONE
    assert capsys.readouterr().out == 'ab, c: complete in data\n'
    server.files['c.tgz'] += b'x'
    with pytest.raises(SystemExit, match=r'^error: .*/c\.tgz: what came has MD5'):
        call_tool('download_dataset.py', 'c', '--root', 'elsewhere')


@pytest.mark.parametrize('kind', ['tar', 'zip'])
def test_an_archive_writes_nothing_outside(tmp_path, kind):
    content = {'../escaped.txt': b'x', '/tmp/escaped-too.txt': b'x', 'in.txt': b'x'}
    path = tmp_path / 'store' / f'evil.{kind}'
    path.parent.mkdir()
    path.write_bytes(tar_bytes(content) if kind == 'tar' else zip_bytes(content))
    folder = tmp_path / 'data'
    if kind == 'tar':
        with pytest.raises(tarfile.FilterError, match=r'archive .*evil\.tar is not unpacked'):
            module.unpack(path, folder)
        assert not folder.exists()
    else:
        module.unpack(path, folder)
        assert (folder / 'in.txt').exists()
    assert sorted(p.name for p in tmp_path.iterdir()) in (['store'], ['data', 'store'])
    assert not os.path.exists('/tmp/escaped-too.txt')


@pytest.mark.parametrize(
    ('path', 'command'),
    [
        ('data/coco/train2017', 'coco2017 --root data'),
        ('data/coco/annotations/instances_val2017.json', 'coco2017 --root data'),
        ('data/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt', 'voc2007 --root data'),
        ('x/y/VOCdevkit/VOC2012/', 'voc2012 --root x/y'),
        ('data/sbd/inst', 'sbd --root data'),
        ('data/coco/test2017', None),
        ('data/mine/coco.json', None),
    ],
)
def test_what_is_missing_leads_to_the_command_that_brings_it(path, command):
    expected = command and f'python tools/download_dataset.py {command}'
    assert download_hint(path) == expected


def test_an_archive_goes_to_a_folder_on_another_disk(tmp_path, monkeypatch):
    # Bug: all was unpacked, and then lost, as no file can be moved from one disk to another.
    path = tmp_path / 'a.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('top/inner/b.txt', 'b')
        archive.writestr('top/a.txt', 'a')
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'coco').symlink_to(tmp_path / 'disk')
    replace = os.replace

    def between_disks(source, target):
        if '.unpacked' in str(source):
            raise OSError(errno.EXDEV, 'Invalid cross-device link')
        replace(source, target)

    monkeypatch.setattr('mmws.data.archives.os.replace', between_disks)
    unpack(path, tmp_path / 'coco', 'top')
    found = sorted(p.relative_to(tmp_path / 'disk').as_posix() for p in files_in(tmp_path / 'disk'))
    assert found == ['a.txt', 'inner/b.txt']
