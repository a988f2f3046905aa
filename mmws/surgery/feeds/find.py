"""Runs a model and finds out which layers feed a normalization."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from mmws.surgery.libraries import base_among, is_batch_norm, is_convolution, is_normalization

from .graph import Graph, Solution, Step, solve
from .inputs import Call, call_with, larger_call, own_calls
from .structure import fed_normalizations
from .tracer import Tracer
from .undisturbed import kept_state, undisturbed

_CLASS_OF_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass
class Feeds:
    """What was found about the layers of a model.

    Attributes:
        fed: The layers that can get a weight function together: their scale cancels.
        norms: For each layer that reaches one, the normalization layers that its output reaches.
            It has an entry too if a normalization is no layer.
        stops: For each layer whose scale matters, what it matters to, in words.
        unknown: Of the operations in ``stops``, those in no table of rules.
        weight_used_alone: The layers whose weight the model reads by itself, and the norms whose
            parameters or statistics it does.
        odd_offsets: Deformable convolutions with more offsets than outputs.
        sharing: The layers that hold the weight of one that does not feed a normalization.
        reached: The layers that ran, or whose place in the structure tells.
        positions: For each normalization, the fewest positions of a channel that it was given.
        functions: Modules that normalize without being a known normalization layer -> how.
        functional_convs: Modules that convolve with a parameter of their own -> how.
        stopped_by: Why the traced run of the whole model ended early; ``None`` if it did not.
    """

    fed: set[nn.Module] = field(default_factory=set)
    norms: dict[nn.Module, list[nn.Module]] = field(default_factory=dict)
    stops: dict[nn.Module, set[str]] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    weight_used_alone: set[nn.Module] = field(default_factory=set)
    odd_offsets: set[nn.Module] = field(default_factory=set)
    sharing: set[nn.Module] = field(default_factory=set)
    reached: set[nn.Module] = field(default_factory=set)
    positions: dict[nn.Module, int] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    functional_convs: dict[str, str] = field(default_factory=dict)
    stopped_by: str | None = None

    def complete(self, model: nn.Module) -> bool:
        """Return whether each convolution of ``model`` was reached."""
        return all(m in self.reached for m in model.modules() if is_convolution(m))

    def why_not(self, layer: nn.Module) -> str | None:
        """Return why ``layer`` does not feed a normalization, ``None`` if it does."""
        if layer not in self.reached:
            return 'not reached by the traced run (pass inputs that reach it)'
        if layer in self.odd_offsets:
            return 'is given more offsets than it has outputs'
        if layer in self.weight_used_alone:
            return 'its weight is used without it'
        stops = sorted(self.stops.get(layer, ()))
        named = [stop for stop in stops if stop.startswith('stopped')]
        if layer not in self.norms:
            return ', '.join(['feeds no normalization', *named])
        if layer in self.fed:
            return None
        if layer in self.sharing and not stops:
            return 'shares its weight with a layer that stays plain'
        others = [stop for stop in stops if stop not in named]
        uses = [f'its output also goes into {", ".join(others)}'] if others else []
        return ', '.join([*uses, *named]) or 'its scale matters to the model'


def find_feeds(
    model: nn.Module,
    inputs: Any = None,
    candidates: Collection[nn.Module] | None = None,
    norms: Collection[nn.Module] | None = None,
) -> Feeds:
    """Find out which layers of ``model`` feed a normalization.

    The run changes nothing in the model: no statistics, mode, gradient or random state. Hooks run
    as they would in evaluation, except those of ``norms``.

    Args:
        model: Any model.
        inputs: What to run it with: a tuple of positional arguments, a dict of keyword arguments
            or a single argument. ``None``: small random inputs of the form that the model takes
            (:func:`mmws.surgery.feeds.inputs.own_calls`).
        candidates: The layers that can be converted; all convolutions by default. Others are
            part of the model like anything else.
        norms: Layers that count as normalizations although they do not normalize in evaluation;
            all of Batch Normalization by default, unless they have a ``forward`` of their own.

    Raises:
        ValueError: if the model cannot be run with ``inputs``, or has layers without weights yet.
    """
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError('the model has lazy layers: run it once before')
    if candidates is None:
        candidates = {m for m in model.modules() if is_convolution(m)}
    if norms is None:
        norms = {m for m in model.modules() if is_batch_norm(m) and _keeps_forward(m)}
    run = _Run(model, set(candidates), set(norms))
    with undisturbed(model, quiet=run.norms):
        run.trace(inputs)
    return run.feeds()


def _keeps_forward(norm: nn.Module) -> bool:
    return not isinstance(norm, nn.modules.batchnorm._BatchNorm) or (
        base_among(type(norm), _CLASS_OF_BATCH_NORM) is not None
    )


class _Run:
    """The traced runs of a model and of its parts."""

    def __init__(self, model: nn.Module, convs: set[nn.Module], norms: set[nn.Module]) -> None:
        self.model, self.convs, self.norms = model, convs, norms
        self.tracers: list[Tracer] = []
        self.stopped_by: str | None = None

    @property
    def reached(self) -> set[nn.Module]:
        return set().union(*(tracer.reached for tracer in self.tracers))

    def trace(self, inputs: Any) -> None:
        if inputs is None:
            self.stopped_by = self._trace_first(own_calls(self.model))
            self._trace_parts(self.model)
            self._measure_single_positions()
            return
        tracer, error = self._trace_call(lambda: call_with(self.model, inputs))
        if error is not None:
            raise ValueError(f'the model cannot be run with the inputs given: {error}')
        self.tracers.append(tracer)

    def _trace_first(self, calls: Iterable[Call]) -> str | None:
        """Trace the first call that goes through; what the others reached counts if none does.

        Returns:
            The error of the first call, which has the likeliest input; None if a call went through.
        """
        failed: list[Tracer] = []
        errors: list[str] = []
        for call in calls:
            with kept_state(self.model):  # a model may remember the size that it does not take
                tracer, error = self._trace_call(call)
            if error is None:
                self.tracers.append(tracer)
                return None
            failed.append(tracer)
            errors.append(error)
        self.tracers += failed
        return errors[0] if errors else 'no form of input is known for this model'

    def _trace_call(self, call: Call) -> tuple[Tracer, str | None]:
        with Tracer(self.model, self.convs, self.norms) as tracer:
            error = tracer.run(call)
        if not tracer.fixed_statistics:
            return tracer, error
        # These modules call F.batch_norm by themselves. Whether they normalize in training, or
        # compute a fixed map of every channel, shows when they run in training mode.
        for module in tracer.fixed_statistics:
            module.training = True
        try:
            with Tracer(self.model, self.convs, self.norms) as training:
                training_error = training.run(call)
        finally:
            for module in tracer.fixed_statistics:
                module.training = False
        return (tracer, error) if training_error is not None else (training, None)

    def _trace_parts(self, module: nn.Module) -> None:
        """Trace those parts of the model that its own run did not reach."""
        for child in module.children():
            convs = {m for m in child.modules() if m in self.convs}
            unreached = convs - self.reached
            if not unreached or not any(is_normalization(m) for m in child.modules()):
                continue
            if unreached == convs and not isinstance(child, (nn.ModuleList, nn.ModuleDict)):
                self._trace_first(own_calls(child, part=True))
            self._trace_parts(child)

    def _measure_single_positions(self) -> None:
        """Measure again, on a larger image, the norms that were given one position a channel.

        Some of them come behind a global pooling, and others are given more by a larger image.
        """
        positions = self._positions()
        single = {norm for norm, count in positions.items() if count == 1}
        if not single or self.stopped_by is not None:
            return
        with Tracer(self.model, set(), single) as tracer:
            try:
                error = tracer.run(larger_call(self.model))
            except ValueError:
                return
        if error is None:
            self.tracers[0].positions.update(tracer.positions)

    def _positions(self) -> dict[nn.Module, int]:
        found: dict[nn.Module, int] = {}
        for tracer in self.tracers:
            for norm, count in tracer.positions.items():
                found[norm] = min(count, found.get(norm, count))
        return found

    # ---- What the runs tell

    def feeds(self) -> Feeds:
        feeds = Feeds(stopped_by=self.stopped_by, positions=self._positions())
        for tracer in self.tracers:
            feeds.weight_used_alone |= tracer.weight_used_alone
            feeds.odd_offsets |= tracer.odd_offsets
            feeds.functional_convs.update(tracer.functions)
        feeds.reached = self.reached
        usable = (self.convs & self.reached) - feeds.weight_used_alone - feeds.odd_offsets
        solution = solve(_joined(tracer.graph for tracer in self.tracers), usable, self._groups())
        feeds.fed = solution.accepted
        feeds.norms = dict(solution.norms)
        for conv, steps in solution.normalized_at.items():
            feeds.norms.setdefault(conv, [])
            for step in steps:
                if step.norm is None:
                    feeds.functions.setdefault(step.place, step.what)
        feeds.fed &= feeds.norms.keys()
        for weight_group in self._groups().values():
            if len(weight_group) > 1 and not weight_group <= feeds.fed:
                feeds.sharing |= weight_group
        self._add_stops(feeds, solution)
        self._add_structure(feeds)
        return feeds

    def _groups(self) -> dict[nn.Module, set[nn.Module]]:
        """Return for each layer those that hold the same weight."""
        by_weight: dict[int, set[nn.Module]] = {}
        for conv in self.convs:
            by_weight.setdefault(id(conv.weight), set()).add(conv)
        return {conv: by_weight[id(conv.weight)] for conv in self.convs}

    def _add_stops(self, feeds: Feeds, solution: Solution) -> None:
        for conv, steps in solution.stops.items():
            feeds.stops[conv] = {_words(step) for step in steps}
            feeds.unknown |= {step.what for step in steps if not step.known}

    def _add_structure(self, feeds: Feeds) -> None:
        for layer, norm in fed_normalizations(self.model):
            if layer in self.convs and layer not in feeds.reached:
                feeds.norms.setdefault(layer, []).append(norm)
                feeds.fed.add(layer)
        feeds.reached |= feeds.norms.keys()


def _words(step: Step) -> str:
    if '::' in step.what:
        return f'stopped at {step.what}' + ('' if step.known else ', which is in no table of rules')
    return step.what if step.conv is None else 'another layer'


def _joined(graphs: Iterable[Graph]) -> Graph:
    """Return one graph of several, whose values are numbered apart."""
    joined = Graph()
    for graph in graphs:
        offset = joined.values - 1
        for step in graph.steps:
            joined.steps.append(step.shifted(offset))
        joined.values += graph.values - 1
    return joined
