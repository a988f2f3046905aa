"""What :func:`mmws.convert` did to a model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Change:
    """A layer that became another one.

    Attributes:
        name: Its name in the model before, e.g. ``backbone.layer1.0.conv1``.
        before: Name of its class before.
        after: Name of its class now.
    """

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Unchanged:
    """A convolution or normalization that stayed as it was.

    Attributes:
        name: Its name in the model.
        kind: Name of its class.
        reason: Why it stayed.
    """

    name: str
    kind: str
    reason: str


@dataclass
class ConversionReport:
    """What :func:`mmws.convert` changed, what it left and why.

    Attributes:
        convs: The convolutions that got a weight function.
        norms: The normalizations that became another kind.
        left: The other convolutions and normalizations.
        notes: What the user should know beside, a sentence each.
        parameters_before: Number of elements of all parameters before.
        parameters_after: The same now.
        earlier: The convolutions that got a weight function by conversions before this one.
    """

    convs: list[Change] = field(default_factory=list)
    norms: list[Change] = field(default_factory=list)
    left: list[Unchanged] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parameters_before: int = 0
    parameters_after: int = 0
    earlier: list[Change] = field(default_factory=list)

    def summary(self, names: int = 3) -> str:
        """Return the report with at most ``names`` layers named for each kind of change."""
        rows: list[tuple[str, list[str]]] = []
        for changes, what in ((self.convs, 'convolutions'), (self.norms, 'normalizations')):
            groups = defaultdict(list)
            for change in changes:
                groups[f'{what}: {change.before} -> {change.after}'].append(change.name)
            rows += groups.items() if groups else [(f'{what}: none changed', [])]
        groups = defaultdict(list)
        for left in self.left:
            groups[f'left: {left.kind}, {left.reason}'].append(left.name)
        rows += groups.items()

        lines = [f'{len(found):>5}  {what}{_few(found, names)}' for what, found in rows]
        lines.append(f'parameters: {self.parameters_before:,} -> {self.parameters_after:,}')
        return '\n'.join([*lines, *(f'note: {note}' for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as what JSON can hold."""
        return asdict(self)

    def table(self) -> str:
        """Return the report as a Markdown table with a row for each layer."""
        rows = [(c.name, c.before, c.after) for c in (*self.convs, *self.norms)]
        rows += [(left.name, left.kind, f'stays: {left.reason}') for left in self.left]
        lines = [f'| {name or "(the model)"} | {kind} | {now} |' for name, kind, now in rows]
        return '\n'.join(['| layer | before | now |', '| --- | --- | --- |', *lines])

    def __str__(self) -> str:
        rows = [(c.name, f'{c.before} -> {c.after}') for c in (*self.convs, *self.norms)]
        rows += [(left.name, f'{left.kind}: {left.reason}') for left in self.left]
        width = max((len(name) for name, _ in rows), default=0)
        table = [f'{name:<{width}}  {what}' for name, what in rows]
        return '\n'.join([*table, '', self.summary(names=0)])


def _few(names: list[str], count: int) -> str:
    if not names or not count:
        return ''
    shown = ', '.join(name or '(the model)' for name in names[:count])
    return f' ({shown}, ...)' if len(names) > count else f' ({shown})'
