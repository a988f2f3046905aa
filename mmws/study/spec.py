"""A grid of trainings as a file describes it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmws.config import read_config

SEEDS_FOR_A_CLAIM = 3

_T = TypeVar('_T')


@dataclass(frozen=True)
class Task:
    """What is trained.

    Args:
        title: Heading in the report.
        config: Config with plain convolutions and Batch Normalization, which every form of the
            layers starts from; relative to the file of the study, or ``mmws::folder/name.py``.
        metric: What counts, as the log names it without the evaluator: ``accuracy``, ``segm_mAP``.
        images: Training images that a run sees, where the grid gives no number of updates.
        rates: Learning rates at one image a step; each form takes the one that is best on one seed.
        search_images_per_step: Of the runs that choose a rate, where a norm cannot train with one
            image; their rates are multiplied by it.
        evaluations: Evaluations in a run, at equal distances; the last one counts.
        unit: What one training example is called in the report.
        floor: The metric without any training. Charts begin with it, and how good a learning rate
            of a sweep is counts from it.
    """

    title: str
    config: str
    metric: str
    images: int
    rates: tuple[float, ...]
    search_images_per_step: int = 1
    evaluations: int = 1
    unit: str = 'image'
    floor: float = 0.0


@dataclass(frozen=True)
class Form:
    """The layers of a model: a weight function and a norm.

    Args:
        conv: As for :func:`mmws.convert`; None leaves convolutions plain. ``'WN'`` reaches
            recurrent layers, too.
        norm: As for :func:`mmws.convert`; ``'BN'`` leaves Batch Normalization, ``'SyncBN'`` takes
            its statistics over all processes, and None removes it and gives the convolutions before
            it a bias.
        init: Whether layers with Weight Normalization are initialised by the first batch.
        config: Config in place of the task's, for what is more than other layers: frozen norms,
            pretrained weights.
        processes: Processes that train together and share the images of a step, as on so many GPUs.
            In the search for a learning rate, each process takes at least one image.
    """

    conv: str | None = None
    norm: str | None = 'BN'
    init: bool = False
    config: str | None = None
    processes: int = 1


@dataclass(frozen=True)
class Block:
    """A part of the grid: one task in several forms, at several numbers of images a step.

    Args:
        task: Name of the task.
        forms: Names of the forms.
        images_per_step: Images a step.
        seeds: Seeds of the runs of each cell.
        updates: Updates of each run; None: as many as show ``Task.images`` images.
        rates: Learning rates at one image a step, all of which are run: a sweep. None: the rate
            that is best by the rule of the study.
    """

    task: str
    forms: tuple[str, ...]
    images_per_step: tuple[int, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    updates: int | None = None
    rates: tuple[float, ...] | None = None


def is_sweep_of(block: Block, task: str, form: str, images: int | str) -> bool:
    """Return whether a block sweeps learning rates of a form at a number of images a step."""
    return (
        block.rates is not None
        and block.task == task
        and form in block.forms
        and images in block.images_per_step
    )


RATES = ('rule', 'best', 'largest')  # of Claim.rate


@dataclass(frozen=True)
class Claim:
    """A comparison of two cells that a paper claims.

    Args:
        text: The claim in words.
        task: Name of the task.
        better: Form and images a step of the cell that should be higher; for ``'best'`` instead of
            a number, that with the highest mean.
        than: The other cell.
        source: Where the paper says so, with its figures.
        updates: Which runs: those of so many updates, or, if None, those of equal images.
        rate: ``'rule'`` compares runs with the learning rate of the study's rule; ``'best'``, in
            the sweeps of the task, each form at the rate with its highest mean; ``'largest'``, not
            the metric but the largest rates of the sweeps that work, by their decimal logarithms.
            A rate works that reaches 95 % of the best run of the same form and seed.
    """

    text: str
    task: str
    better: tuple[str, int | str]
    than: tuple[str, int | str]
    source: str = ''
    updates: int | None = None
    rate: str = 'rule'


@dataclass(frozen=True)
class Spec:
    """A study: see the classes of the fields.

    Args:
        about: A paragraph for the report, such as where the data come from.
    """

    path: Path
    title: str
    tasks: dict[str, Task]
    forms: dict[str, Form]
    grid: tuple[Block, ...]
    claims: tuple[Claim, ...] = ()
    data: Path | None = None  # of :func:`mmws.study.with_data`
    about: str = ''


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        task: Name of the task.
        form: Name of the form of the layers.
        images_per_step: Images a step.
        updates: Steps of the optimizer.
        rate: Learning rate of these steps; None while runs that choose it are missing.
        seed: Seed of initial weights and of the order of images.
    """

    task: str
    form: str
    images_per_step: int
    updates: int
    rate: float | None
    seed: int

    @property
    def name(self) -> str:
        """A name for a folder, different for every cell."""
        return as_path(
            f'{self.task}/{self.form}/{self.images_per_step}x{self.updates}'
            f'_rate{self.rate:g}_seed{self.seed}'
        )


def as_path(name: str) -> str:
    """Return the name of a form, or a part of a cell's name, as it is in the name of a folder."""
    return name.replace('+', '-').replace(' ', '_').replace('*', 'star')


def read_spec(path: str | Path) -> Spec:
    """Read the file of a study, a Python file with ``title``, ``tasks``, ``forms`` and ``grid``.

    It may have ``claims`` and ``about``, and names of its own that begin with an underscore.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the setting that is unknown, missing or wrong.
    """
    content = read_config(path, 'study').to_dict()
    content = {name: value for name, value in content.items() if not name.startswith('_')}
    known = {'title', 'tasks', 'forms', 'grid', 'claims', 'about'}
    for name in ('title', 'tasks', 'forms', 'grid'):
        if not content.get(name):
            raise ValueError(f'study {path} has no {name}')
    if content.keys() - known:
        raise ValueError(f'study {path}: {sorted(content.keys() - known)[0]} is unknown')
    tasks = {n: _make(Task, f'tasks.{n}', t, path) for n, t in content['tasks'].items()}
    forms = {n: _make(Form, f'forms.{n}', f, path) for n, f in content['forms'].items()}
    grid = [_make(Block, f'grid.{i}', b, path) for i, b in enumerate(content['grid'])]
    claims = [_make(Claim, f'claims.{i}', c, path) for i, c in enumerate(content.get('claims', ()))]
    for name, form in forms.items():
        _require_whole(form.processes, f'study {path}: forms.{name}.processes')
        if form.norm == 'SyncBN' and form.processes == 1:
            raise ValueError(f"study {path}: forms.{name}: norm='SyncBN' needs processes above 1")
    for i, block in enumerate(grid):
        for name in block.forms:
            _require(name, forms, f'study {path}: grid.{i}.forms')
        _require(block.task, tasks, f'study {path}: grid.{i}.task')
        for key in ('images_per_step', 'seeds', 'forms'):
            if not getattr(block, key):
                raise ValueError(f'study {path}: grid.{i}.{key} is empty')
        if min(block.images_per_step) < 1 or (block.updates is not None and block.updates < 1):
            raise ValueError(f'study {path}: grid.{i} has a number below 1')
        for images, name in itertools.product(block.images_per_step, block.forms):
            if images % forms[name].processes:
                raise ValueError(
                    f'study {path}: grid.{i} has {images} images per step, which the '
                    f'{forms[name].processes} processes of {name} cannot share equally'
                )
    for i, claim in enumerate(claims):
        _require(claim.task, tasks, f'study {path}: claims.{i}.task')
        for name, _ in (claim.better, claim.than):
            _require(name, forms, f'study {path}: claims.{i}')
        _require(claim.rate, dict.fromkeys(RATES), f'study {path}: claims.{i}.rate')
        if claim.rate != 'rule':
            _require_sweeps(claim, grid, f'study {path}: claims.{i}')
    for name, task in tasks.items():
        _require_whole(
            task.search_images_per_step, f'study {path}: tasks.{name}.search_images_per_step'
        )
        if not task.rates or min(task.rates) <= 0 or task.images < 1 or task.evaluations < 1:
            raise ValueError(f'study {path}: tasks.{name} needs rates above 0, images, evaluations')
    about = ' '.join(str(content.get('about', '')).split())
    return Spec(Path(path), content['title'], tasks, forms, tuple(grid), tuple(claims), about=about)


def _require(name: str, among: Mapping[str, Any], where: str) -> None:
    if name not in among:
        raise ValueError(f'{where} names {name!r}, which is none of {", ".join(among)}')


def _require_whole(number: Any, where: str) -> None:
    if not isinstance(number, int) or number < 1:
        raise ValueError(f'{where} must be a whole number of at least 1, got {number!r}')


def _require_sweeps(claim: Claim, grid: Sequence[Block], where: str) -> None:
    for form, images in (claim.better, claim.than):
        if not any(is_sweep_of(block, claim.task, form, images) for block in grid):
            raise ValueError(
                f'{where} has rate={claim.rate!r}, but no block of the grid with rates has '
                f'{claim.task}, {form} at {images}'
            )


def _make(kind: type[_T], where: str, values: Any, path: str | Path) -> _T:
    """Build a dataclass from the dict of a file, with lists as tuples."""
    if not isinstance(values, Mapping):
        raise ValueError(f'study {path}: {where} must be a dict')
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise ValueError(f'study {path}: {where}.{unknown[0]} is unknown: take {", ".join(fields)}')
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f'study {path}: {where}.{missing[0]} is missing')
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


Best = Mapping[tuple[str, str], float | None]
"""Task and form -> the learning rate at one image a step; None while it is not known."""


def search_cells(spec: Spec) -> list[Cell]:
    """Return the runs that choose learning rates: fewest images a step, one seed, all rates."""
    seeds: dict[str, int] = {}
    cells = []
    for block in spec.grid:
        if block.rates is None:
            seed = seeds.setdefault(block.task, block.seeds[0])
            for form in block.forms:
                cells += _search(spec, block.task, form, seed)
    return list(dict.fromkeys(cells))


def _search(spec: Spec, name: str, form: str, seed: int) -> list[Cell]:
    task = spec.tasks[name]
    processes = spec.forms[form].processes
    images = math.ceil(task.search_images_per_step / processes) * processes
    updates = max(1, task.images // images)
    return [Cell(name, form, images, updates, rate * images, seed) for rate in task.rates]


def all_cells(spec: Spec, best: Best) -> list[Cell]:
    """Return all runs of a study, in the order in which they are run.

    Learning rates follow the linear rule: that of one image a step, times the images a step.

    Args:
        spec: The study.
        best: Rates at one image a step that are known already.
    """
    cells: list[Cell] = []
    search = search_cells(spec)
    for block in spec.grid:
        if block.rates is None:
            cells += [c for c in search if c.task == block.task and c.form in block.forms]
        cells += cells_of(block, spec.tasks[block.task], best)
    return list(dict.fromkeys(cells))


def cells_of(block: Block, task: Task, best: Best) -> Iterator[Cell]:
    """Yield the runs of one block of the grid."""
    for images in block.images_per_step:
        updates = block.updates or max(1, task.images // images)
        for seed in block.seeds:
            for form in block.forms:
                rates: Sequence[float | None] = block.rates or [best.get((block.task, form))]
                for rate in rates:
                    scaled = None if rate is None else rate * images
                    yield Cell(block.task, form, images, updates, scaled, seed)
