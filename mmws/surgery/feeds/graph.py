"""What a traced run recorded, and which convolutions it allows to be converted together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from .scale_rules import CLASH, Degree, Rule, any_scale, compared

INVARIANT = 0  # the value of every tensor that no convolution has a part in


@dataclass(frozen=True)
class Step:
    """An operation, a convolution, a normalization layer or the end of a run.

    Attributes:
        what: Name for the report, such as ``aten::sigmoid``.
        rule: Degrees of the inputs -> degree of the result (:mod:`.scale_rules`).
        inputs: Numbers of the values that are read.
        outputs: Numbers of the values that are made.
        conv: The convolution, if the step is the call of one.
        norm: The normalization layer, if the step is the call of one.
        place: Name of the innermost module that ran.
        known: Whether the operation is in the table of rules.
    """

    what: str
    rule: Rule
    inputs: tuple[int, ...]
    outputs: tuple[int, ...] = ()
    conv: nn.Module | None = None
    norm: nn.Module | None = None
    place: str = ''
    known: bool = True

    def shifted(self, offset: int) -> Step:
        """Return the step with the numbers of all values but that of plain tensors raised."""
        inputs = tuple(value and value + offset for value in self.inputs)
        return replace(self, inputs=inputs, outputs=tuple(v and v + offset for v in self.outputs))


@dataclass
class Graph:
    """The steps of all runs, in the order in which they ran."""

    steps: list[Step] = field(default_factory=list)
    values: int = 1

    def new_value(self) -> int:
        self.values += 1
        return self.values - 1


@dataclass
class Solution:
    """Which convolutions can be converted together.

    Attributes:
        accepted: The convolutions whose scale cancels.
        stops: For each of the others, the steps at which its scale would have mattered.
        norms: For each convolution, the normalization layers that its output reaches.
        normalized_at: For each convolution, the steps at which its scale vanishes.
    """

    accepted: set[nn.Module]
    stops: dict[nn.Module, list[Step]] = field(default_factory=lambda: defaultdict(list))
    norms: dict[nn.Module, list[nn.Module]] = field(default_factory=lambda: defaultdict(list))
    normalized_at: dict[nn.Module, list[Step]] = field(default_factory=lambda: defaultdict(list))


_Groups = dict[nn.Module, set[nn.Module]]


def solve(graph: Graph, candidates: Iterable[nn.Module], groups: _Groups) -> Solution:
    """Return a largest set of convolutions whose common scale no output depends on.

    Convolutions are taken out until no step clashes, first in the strict form in which no accepted
    convolution may take the output of another one. Those that were taken out are then tried again
    in the full form, in which a convolution without a bias hands on the scale of its input; of
    these, the ones that have no bias themselves, such as a depthwise before a pointwise one.

    Args:
        graph: What the runs recorded.
        candidates: The convolutions that can be converted.
        groups: For each candidate, the candidates that hold the same weight, itself included:
            all of them are converted or none.
    """
    candidates = set(candidates)
    solution = Solution(_shrink(graph, set(candidates), set(candidates), groups, chains=False))
    left_out = candidates - solution.accepted
    # A layer with an offset is meant to stand without a norm, as an FPN's before a normalized head.
    retried = {conv for conv in left_out if getattr(conv, 'bias', None) is None}
    both = _shrink(graph, solution.accepted | retried, retried, groups, chains=True)
    if both >= solution.accepted and not _clashes(graph, both, chains=True):
        solution.accepted = both
    for convs, step in _clashes(graph, solution.accepted | left_out, chains=True):
        for conv in convs - solution.accepted:
            solution.stops[conv].append(step)
    _follow(graph, candidates, solution)
    return solution


def _shrink(
    graph: Graph,
    convs: set[nn.Module],
    removable: set[nn.Module],
    groups: _Groups,
    chains: bool,
) -> set[nn.Module]:
    """Return ``convs`` without those that clash, taken from ``removable`` where there are any."""
    while clashes := _clashes(graph, convs, chains):
        clashing = set().union(*(sources for sources, _ in clashes))
        lost = clashing & removable or clashing
        convs = convs - set().union(*(groups.get(conv, {conv}) for conv in lost))
    return convs


def _clashes(
    graph: Graph, convs: set[nn.Module], chains: bool
) -> list[tuple[frozenset[nn.Module], Step]]:
    """Return the steps that clash if ``convs`` are converted, and the convolutions at fault."""
    degrees: dict[int, Degree] = {INVARIANT: 0.0}
    sources: dict[int, frozenset[nn.Module]] = {}
    found = []
    nothing: frozenset[nn.Module] = frozenset()
    for step in graph.steps:
        inputs = [degrees.get(value, 0.0) for value in step.inputs]
        if any(inputs):
            result = step.rule(inputs)
            made_of = nothing.union(*(sources.get(v, nothing) for v in step.inputs))
            if not chains and step.conv in convs:
                result = CLASH
            if result == CLASH:
                found.append((made_of, step))
                result, made_of = 0.0, nothing
        else:
            result = step.rule(inputs) if None in inputs or not inputs else 0.0
            result, made_of = (0.0 if result == CLASH else result), nothing
        if step.conv is not None and step.conv in convs:
            result, made_of = (result or 0.0) + 1.0, made_of | {step.conv}
        results = result if isinstance(result, tuple) else [result] * len(step.outputs)
        for value, degree in zip(step.outputs, results):
            degrees[value] = degree
            if degree:
                sources[value] = made_of
            else:
                sources.pop(value, None)
    return found


def _follow(graph: Graph, convs: set[nn.Module], solution: Solution) -> None:
    """Note which normalizations the output of each convolution reaches, converted or not."""
    degrees: dict[int, Degree] = {}
    made_of: dict[int, set[nn.Module]] = {}
    nothing: set[nn.Module] = set()
    for step in graph.steps:
        inputs = [degrees.get(value, 0.0) for value in step.inputs]
        reaching = nothing.union(*(made_of.get(value, nothing) for value in step.inputs))
        if step.conv is not None:
            hands_on = step.rule([1.0] * len(step.inputs)) != CLASH
            reaching = {step.conv} | (reaching & solution.accepted if hands_on else nothing)
            result = 1.0
        elif not any(inputs):
            reaching, result = nothing, (step.rule(inputs) if None in inputs or not inputs else 0.0)
        else:
            result = _loose(step.rule, inputs)
            if result == 0.0 and step.rule not in (any_scale, compared):
                for conv in reaching & convs:
                    if step.norm is not None and step.norm not in solution.norms[conv]:
                        solution.norms[conv].append(step.norm)
                    solution.normalized_at[conv].append(step)
        results = result if isinstance(result, tuple) else [result] * len(step.outputs)
        for value, degree in zip(step.outputs, results):
            degrees[value] = 0.0 if degree == CLASH else degree
            made_of[value] = reaching if degrees[value] else nothing


def _loose(rule: Rule, inputs: list[Degree]) -> Any:
    """Return the degree of a result whose other inputs may clash with the first."""
    result = rule(inputs)
    if result != CLASH:
        return result
    first = next(degree for degree in inputs if degree)
    return rule([first] * len(inputs))
