"""The code blocks of README.md and docs/ as tests.

A block that begins with three backticks and ``python`` is executed; the blocks of a page share
their names. With ``title="configs/mine.py"`` behind it, the block is the MMEngine config of that
name: it is read, and every layer, hook and metric of mmws in it must exist. The comment
``<!-- skip: next "reason" -->`` before a block leaves it out.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.document import Document
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer
from sybil.region import Region

from tests.helpers.paths import ROOT

_TITLED = re.compile(r'python title="(?P<title>[^"]+\.py)"$\n', re.MULTILINE)


def document_tests() -> Sybil:
    """Return what makes pytest collect the blocks of the pages."""
    return Sybil(
        parsers=[PythonCodeBlockParser(), _parse_configs, SkipParser()],
        path=str(ROOT),
        patterns=['README.md', 'docs/*.md', 'docs/*/*.md'],
        setup=_enter_checkout,
        teardown=_leave_checkout,
    )


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Run the blocks before this one, unless the process ran them since it entered the page.

    pytest-xdist may give the later blocks of a page to another process than the earlier ones.
    """
    if not isinstance(item, SybilItem):
        return
    done = item.example.namespace['_done']
    for example in item.example.document.examples():
        if example.region.start >= item.example.region.start:
            break
        if example.region.start not in done:
            example.evaluate()
            done.add(example.region.start)
    done.add(item.example.region.start)


def _enter_checkout(namespace: dict[str, Any]) -> None:
    """Let the blocks run as if in a checkout, but write to a folder that is removed."""
    namespace['_done'] = set()
    namespace['_back'] = os.getcwd()
    namespace['_folder'] = folder = tempfile.TemporaryDirectory()
    for name in ('configs', 'tools'):
        (Path(folder.name) / name).mkdir()
        for path in (ROOT / name).iterdir():
            (Path(folder.name) / name / path.name).symlink_to(path)
    os.chdir(folder.name)


def _leave_checkout(namespace: dict[str, Any]) -> None:
    os.chdir(namespace['_back'])
    namespace['_folder'].cleanup()


def _parse_configs(document: Document) -> Iterator[Region]:
    for region in RawFencedCodeBlockLexer(_TITLED)(document):
        region.parsed = region.lexemes
        region.evaluator = _read_config
        yield region


def _read_config(example: Example) -> None:
    from mmengine.config import Config

    path = ROOT / example.parsed['title']
    # Beside a file of that name, so that relative bases are found.
    folder = path.parent if path.parent.is_dir() else ROOT / 'configs'
    text = re.sub(r"'(\.\.?/[^']+)'", lambda m: repr(str(folder / m[1])), example.parsed['source'])
    draft = Path(example.path).name.replace('.md', f'_{example.line}.py')
    Path(draft).write_text(text)
    cfg = Config.fromfile(draft)
    missing = [name for name in _types(cfg.to_dict()) if not _is_registered(name)]
    assert not missing, f'{example.path}:{example.line}: no such types: {missing}'


def _types(node: object) -> Iterator[str]:
    """Yield the names behind `type=` that begin with `mmws.`."""
    if isinstance(node, dict):
        name = node.get('type')
        if isinstance(name, str) and name.startswith('mmws.'):
            yield name
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _types(item)


def _is_registered(name: str) -> bool:
    from mmengine.registry import HOOKS, METRICS, MODELS

    return any(registry.get(name) is not None for registry in (MODELS, HOOKS, METRICS))
