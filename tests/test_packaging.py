"""What setup.cfg declares is what the code needs, and says."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import mmws
from tests.helpers.paths import ROOT
from tests.helpers.processes import run_python

OWN = {'mmws', 'tools', 'tests'}


def normalized(name: str) -> str:
    return re.sub(r'[-_.]+', '-', name).lower()


@cache
def declared() -> dict[str, set[str]]:
    """Return the distributions that setup.cfg asks for, by extra; '' for those of every user."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg', encoding='utf-8')
    lists = {'': config['options']['install_requires'], **config['options.extras_require']}
    return {
        extra: {
            normalized(re.match(r'[\w.-]+', line)[0])
            for line in text.splitlines()
            if line and not line.startswith('#')
        }
        for extra, text in lists.items()
    }


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level packages that a file imports, inside of functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition('.')[0]


def packages_of(*folders: str) -> dict[str, Path]:
    """Return a file that imports it for each package from elsewhere."""
    files = [path for folder in folders for path in (ROOT / folder).rglob('*.py')]
    return {
        name: path
        for path in files
        for name in imported(path)
        if name not in sys.stdlib_module_names and name not in OWN
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ('folders', 'left_out'),
    [(('mmws', 'tools/dataset_converters'), {'dev', 'docs'}), (('tools',), ())],
)
def test_every_imported_package_is_declared(folders, left_out):
    # Bug: a package that another one happened to bring is gone after an upgrade of that one.
    allowed = set().union(*(names for extra, names in declared().items() if extra not in left_out))
    distributions = packages_distributions()
    missing = {
        name: str(path.relative_to(ROOT))
        for name, path in packages_of(*folders).items()
        if not allowed & {normalized(found) for found in distributions.get(name, [name])}
    }
    assert not missing


def test_the_two_stacks_ask_for_the_same_helpers():
    # Bug: a package is declared for one of the stacks alone.
    def others(stack: str) -> set[str]:
        prefixes = ('onedl-', 'mmengine', 'mmcv', 'mmdet', 'setuptools')
        return {name for name in declared()[stack] if not name.startswith(prefixes)}

    assert others('onedl') == others('openmmlab')


def test_the_version_is_written_once():
    # Bug: a release whose wheel and `mmws.__version__` differ.
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg', encoding='utf-8')
    assert config['metadata']['version'] == 'attr: mmws.__version__'
    changelog = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    released = re.findall(r'^## \[(\d[^\]]*)\]', changelog, re.MULTILINE)
    assert mmws.__version__ == released[0] or '## [Unreleased]' in changelog
    citation = (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    assert re.search(r'^version: (.*)$', citation, re.MULTILINE)[1] == mmws.__version__


@pytest.mark.slow
def test_type_checkers_know_the_public_names(tmp_path):
    # Bug: names that are imported on first use are `Any` for an editor, which completes nothing.
    program = tmp_path / 'program.py'
    program.write_text('import mmws\nreveal_type(mmws.ConvWS2d)\nreveal_type(mmws.convert)\n')
    # With the options of `make lint`, whose cache saves the time of checking PyTorch.
    output = run_python('-m', 'mypy', program)
    layer, function = (line for line in output.splitlines() if 'Revealed type' in line)
    assert 'mmws.layers.weight_standardization.ConvWS2d' in layer
    assert 'def (model: ' in function
