"""The floors of the house: a room imports lower rooms alone, and no modules import in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# Lowest first. Rooms on one floor may not import each other. A room is a package or a module of
# mmws. Differences from the order that reads best, each because a room uses its neighbour:
# - compat lies below config and registry, which ask it whether OpenMMLab is installed,
# - drop_in puts layers into MMCV's registry,
# - data, evaluation and surgery stay on one floor, since none of them needs another.
FLOORS = (
    {'files'},
    {'compat'},
    {'config', 'registry'},
    {'kernels'},
    {'functional'},
    {'layers'},
    {'backbones', 'drop_in'},
    {'training_step'},
    {'checkpoints'},
    {'testing'},
    {'surgery', 'data', 'evaluation', 'point_clouds'},
    {'hooks'},
    {'visualization', 'study'},
    {'engine'},
)


class Import(NamedTuple):
    """One import in the sources of mmws, of a module of mmws."""

    importer: str
    imported: str
    line: int
    at_import_time: bool  # not in a function, and not for type checkers alone


def modules() -> dict[str, Path]:
    found = {}
    for path in (ROOT / 'mmws').rglob('*.py'):
        parts = path.relative_to(ROOT).with_suffix('').parts
        if '.mim' not in parts:
            found['.'.join(parts).removesuffix('.__init__')] = path
    return found


def imports_of(module: str, package: str, source: str, known: set[str]) -> Iterator[Import]:
    """Yield the imports of modules of mmws, also those in functions and for type checkers."""

    def names(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            return
        base = node.module or ''
        if node.level:
            parts = package.split('.')
            above = '.'.join(parts[: len(parts) - node.level + 1])
            base = f'{above}.{base}'.rstrip('.')
        for alias in node.names:
            submodule = f'{base}.{alias.name}'
            yield submodule if submodule in known else base

    def walk(node: ast.AST, at_import_time: bool) -> Iterator[Import]:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for name in names(node):
                if name.partition('.')[0] == 'mmws':
                    yield Import(module, name, node.lineno, at_import_time)
        deferred = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
            deferred = isinstance(node.test, (ast.Name, ast.Attribute))
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_import_time and not deferred)

    yield from walk(ast.parse(source), True)


def all_imports() -> list[Import]:
    known, found = modules(), []
    for module, path in known.items():
        if module != 'mmws':  # the package itself only names what the rooms define
            package = module if path.name == '__init__.py' else module.rpartition('.')[0]
            found += imports_of(module, package, path.read_text(), set(known))
    return found


def room(module: str) -> str:
    return module.partition('.')[2].partition('.')[0]


def floor(module: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_every_room_has_one_floor():
    # Bug: a new room is not part of the order, so nothing keeps it in its place.
    rooms = {room(module) for module in modules() if room(module)}
    named = [name for rooms_of_floor in FLOORS for name in rooms_of_floor]
    assert len(named) == len(set(named))
    assert rooms <= set(named)


def test_no_room_imports_a_higher_one_or_its_neighbour():
    # Bug: a layer or a check cannot be used or understood without the tools above it.
    wrong = [
        f'{i.importer}:{i.line} imports {i.imported}'
        for i in all_imports()
        if room(i.importer) != room(i.imported)
        and (i.imported == 'mmws' or floor(i.imported) >= floor(i.importer))
    ]
    assert not wrong, '\n'.join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    # Bug: which of two modules is imported first decides whether the import works.
    known = set(modules())
    graph: dict[str, set[str]] = {module: set() for module in known}
    for i in all_imports():
        # The packages around a module are being imported already when it is executed.
        if i.at_import_time and i.imported in known and i.imported != i.importer:
            graph[i.importer].add(i.imported)
    circle = _find_circle(graph)
    assert circle is None, ' -> '.join(circle or [])


@pytest.mark.parametrize(
    ('source', 'expected', 'at_import_time'),
    [
        ('import mmws.engine', 'mmws.engine', True),
        ('from mmws import hooks', 'mmws.hooks', True),
        ('from ..surgery.folding import fold', 'mmws.surgery.folding', True),
        ('from .base import WeightFunctionMixin', 'mmws.layers.base', True),
        ('def f():\n    from mmws import hooks', 'mmws.hooks', False),
        ('if TYPE_CHECKING:\n    from mmws import hooks', 'mmws.hooks', False),
    ],
)
def test_imports_are_found_in_every_form(source, expected, at_import_time):
    # Bug: an import in a function, or of the form `from mmws import room`, is overlooked.
    (found,) = imports_of('mmws.layers.norm', 'mmws.layers', source, set(modules()))
    assert (found.imported, found.at_import_time) == (expected, at_import_time)


def test_a_circle_is_found():
    assert _find_circle({'a': {'b'}, 'b': {'c'}, 'c': {'b'}}) == ['b', 'c', 'b']
    assert _find_circle({'a': {'b', 'c'}, 'b': {'c'}, 'c': set()}) is None


def _find_circle(graph: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for imported in sorted(graph.get(module, ())):
            circle = visit(imported, [*path, module])
            if circle:
                return circle
        done.add(module)
        return None

    return next(filter(None, (visit(module, []) for module in sorted(graph))), None)
