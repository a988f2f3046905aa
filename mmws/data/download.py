"""Download COCO, VOC and SBD: resumed where it broke off, checked, laid out as MMDetection reads.

MD5 sums of VOC and SBD are those of ``torchvision.datasets.VOCDetection`` and ``SBDataset``. COCO
publishes none; those here are the ones that PaddleDetection's downloader checks against.
"""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from .archives import unpack

StrPath = str | Path

_COCO = 'http://images.cocodataset.org'
_VOC = 'https://thor.robots.ox.ac.uk/pascal/VOC'
_SBD = 'https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours'

_BLOCK = 1 << 20  # bytes
_TIMEOUT = 60  # seconds without a byte
_ATTEMPTS = 5  # in a row that bring nothing, before giving up
_PAUSE = 2.0  # seconds before the second attempt; doubled before each later one


@dataclass(frozen=True)
class Archive:
    """One file to download.

    Attributes:
        url: Ends in the name of the file, which is a tar or zip archive.
        md5: Hexadecimal.
        brings: What a config may name of its content, relative to the root of the data.
        folder: Where it is unpacked, relative to the root of the data.
        top: Folder in the archive whose content is wanted; all of it if empty.
    """

    url: str
    md5: str
    brings: 'tuple[str, ...]'
    folder: str = ''
    top: str = ''

    @property
    def name(self) -> str:
        """File name."""
        return self.url.rpartition('/')[2]


DATASETS: 'dict[str, tuple[Archive, ...]]' = {
    'coco2017': (
        Archive(
            f'{_COCO}/annotations/annotations_trainval2017.zip',
            'f4bbac642086de4f52a3fdda2de5fa2c',
            (
                'coco/annotations/instances_train2017.json',
                'coco/annotations/instances_val2017.json',
            ),
            folder='coco',
        ),
        Archive(
            f'{_COCO}/zips/val2017.zip',
            '442b8da7639aecaf257c1dceb8ba8c80',
            ('coco/val2017',),
            folder='coco',
        ),
        Archive(
            f'{_COCO}/zips/train2017.zip',
            'cced6f7f71b7629ddf16f17bbcfab6b2',
            ('coco/train2017',),
            folder='coco',
        ),
    ),
    'voc2007': (
        Archive(
            f'{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar',
            'c52e279531787c972589f7e41ab4ae64',
            ('VOCdevkit/VOC2007',),
        ),
        Archive(
            f'{_VOC}/voc2007/VOCtest_06-Nov-2007.tar',
            'b6e924de25625d8de591ea690078ad9f',
            ('VOCdevkit/VOC2007',),
        ),
    ),
    'voc2012': (
        Archive(
            f'{_VOC}/voc2012/VOCtrainval_11-May-2012.tar',
            '6cd6e144f989b92b3379bac3b3de84fd',
            ('VOCdevkit/VOC2012',),
        ),
    ),
    'sbd': (
        Archive(
            f'{_SBD}/benchmark.tgz',
            '82b4d87ceb2ed10f6038a1cba92111cb',
            ('sbd',),
            folder='sbd',
            top='benchmark_RELEASE/dataset',
        ),
    ),
}


def download_hint(path: StrPath) -> str | None:
    """Return the command that brings a file or folder, ``None`` if no known data set has it."""
    parts = Path(os.path.abspath(path)).as_posix() + '/'
    for name, archives in DATASETS.items():
        for inner in (inner for archive in archives for inner in archive.brings):
            root, found, _ = parts.partition(f'/{inner}/')
            if found:
                return f'python tools/download_dataset.py {name} --root {os.path.relpath(root)}'
    return None


def download(names: Sequence[str], root: StrPath = 'data', keep_archives: bool = False) -> None:
    """Download data sets and unpack them; what is done already is not done again.

    Writes, with ``root/downloads`` for what is under way::

        root/coco/annotations, train2017, val2017
        root/VOCdevkit/VOC2007, VOC2012
        root/sbd/img, inst, cls, train.txt, val.txt
        root/downloads/<archive>.done

    An archive that you have already is taken from ``root/downloads/<archive>``. A file that is
    in place stays.

    Args:
        names: Keys of :data:`DATASETS`.
        root: The folder of all data.
        keep_archives: Leave the archives in ``root/downloads``.

    Raises:
        OSError: if a server does not answer, the disk is full or a file that is in place is
            another one. Once that is mended, the same call goes on where it was.
        ValueError: if an archive is not the published one; it is deleted.
        UnsafeArchiveError: if an archive would write elsewhere.
    """
    root = Path(root)
    store = root / 'downloads'
    todo = [
        archive
        for name in names
        for archive in DATASETS[name]
        if not _mark(store, archive).exists()
        or not all((root / inner).exists() for inner in archive.brings)
    ]
    try:
        store.mkdir(parents=True, exist_ok=True)
        _check_space(todo, store, keep_archives)
        for archive in todo:
            path = store / archive.name
            if not path.exists():
                fetch(archive.url, path)
            check_md5(path, archive)
            unpack(path, root / archive.folder, archive.top)
            _mark(store, archive).touch()
            if not keep_archives:
                path.unlink()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        free = _bytes(shutil.disk_usage(root).free)
        raise OSError(
            f'{error.strerror}: the disk of {root.resolve()} has {free} free: make room and run '
            'the same command again, it goes on where it was'
        ) from error


def _mark(store: Path, archive: Archive) -> Path:
    return store / f'{archive.name}.done'


def _check_space(archives: Sequence[Archive], store: Path, keep_archives: bool) -> None:
    """Check the space for the archives and what is in them, which are images: about as large."""
    sizes = [_length(store / archive.name) or _size_of(archive.url) for archive in archives]
    here = [sum(p.stat().st_size for p in store.glob(f'{a.name}*')) for a in archives]
    packed = sum(sizes) if keep_archives else max(sizes, default=0)
    need = sum(sizes) + packed - min(packed, sum(here))
    free = shutil.disk_usage(store).free
    if need > free:
        raise OSError(errno.ENOSPC, f'{_bytes(need)} are needed for archives and what is in them')


def _size_of(url: str) -> int:
    """Return the bytes of a file on a server, 0 if that does not say.

    Raises:
        OSError: if the server does not answer, several times in a row.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with _open(Request(url)) as response:  # some servers know no HEAD
                return _content_length(response) or 0
        except (HTTPException, TimeoutError, ConnectionError) as error:
            if attempt == _ATTEMPTS - 1:
                raise OSError(str(error) or f'{url}: {type(error).__name__}') from None
        time.sleep(_PAUSE * 2**attempt)
    raise AssertionError('the loop returns or raises')


def _content_length(response: HTTPResponse) -> int | None:
    """Return the announced length of the content in bytes, None if there is none."""
    text = response.headers.get('Content-Length', '').strip()
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _open(request: Request) -> HTTPResponse:
    """Open a connection; raises ConnectionError for what may be different a little later."""
    try:
        return urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # nothing left to send
            raise
        kind = ConnectionError if error.code >= 500 else OSError
        message = f'{request.full_url}: the server answers {error.code} {error.reason}'
        raise kind(message) from None
    except URLError as error:
        raise ConnectionError(f'{request.full_url} cannot be reached: {error.reason}') from None


def fetch(url: str, path: Path) -> None:
    """Download a file, going on with ``<path>.part`` if there is one.

    A connection that breaks is opened anew as long as bytes come.

    Raises:
        OSError: if the server does not answer; ``<path>.part`` stays.
    """
    part = path.with_name(f'{path.name}.part')
    failures = 0
    most = _length(part)
    while True:
        try:
            if _receive(url, part):
                break
            reason = 'the connection broke'
        except (HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(error) or type(error).__name__
        # A server that announces more bytes than it has sends the same ones again and again.
        failures = failures + 1 if _length(part) <= most else 1
        most = max(most, _length(part))
        if failures == _ATTEMPTS:
            raise OSError(
                f'{url}: {reason}; {_bytes(_length(part))} have come: run the same command again, '
                'it goes on from there'
            )
        time.sleep(_PAUSE * 2 ** (failures - 1))
    os.replace(part, path)


def _receive(url: str, part: Path) -> bool:
    """Append to ``part`` what it lacks; return whether it is complete."""
    start = _length(part)
    request = Request(url, headers={'Range': f'bytes={start}-'} if start else {})
    try:
        response = _open(request)
    except HTTPError:
        # The range begins at the end, or past it: of what the server has now.
        if start == _size_of(url):
            return True
        part.unlink()
        return False
    with response:
        if response.status != 206:
            start = 0  # the server sends all of it
        left = _content_length(response)
        total = None if left is None else start + left
        mode = 'ab' if start else 'wb'
        with (
            part.open(mode) as file,
            _bar(part.stem, total, start) as bar,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    return total is None or _length(part) == total


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def check_md5(path: Path, archive: Archive) -> None:
    """Check that a file is the published one, and delete it if not.

    Raises:
        ValueError: naming the address and both sums.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with path.open('rb') as file, _bar(f'check {path.name}', _length(path)) as bar:
        while block := file.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != archive.md5:
        path.unlink()
        raise ValueError(
            f'{archive.url}: what came has MD5 {digest.hexdigest()}, published is {archive.md5}: '
            'it was deleted, run the same command again'
        )


def _bar(name: str, total: int | None, start: int = 0) -> tqdm:
    return tqdm(desc=name, total=total, initial=start, unit='B', unit_scale=True, unit_divisor=1024)


def _bytes(count: int) -> str:
    return f'{count / 2**30:.1f} GiB' if count >= 2**30 else f'{count / 2**20:.1f} MiB'
