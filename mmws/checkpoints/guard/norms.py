"""Norms of another kind than those that the weights were trained with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mmws.compat import source_of

from ..metadata import norm_of
from .load import Load, Mismatch
from .model import parent_of
from .origins import origin_of
from .text import count
from .weight_functions import advise

# A few norms differ on purpose, such as in a new head; this many are those of a whole network.
_MANY = 24


def check_statistics(load: Load) -> Iterator[Mismatch]:
    """Find running statistics for norms that have none, and BN layers that would get none."""
    weights = load.weights
    norms = {n: norm['norm'] for n, m in load.layers.items() if (norm := norm_of(m))}
    with_statistics = {parent_of(key) for key in weights if key.endswith('.running_mean')}
    # Options decide: Batch Normalization may have no statistics, and other norms may have some.
    keeps = {n for n in norms if getattr(load.layers[n], 'running_mean', None) is not None}
    superfluous = sorted(with_statistics - keeps)
    # MMDetection's configs with GN rename the norms of a backbone, so that these get no weights;
    # models outside of MMDetection keep the names.
    unfed = [
        n for n in norms if n not in keeps and (n in superfluous or f'{n}.weight' not in weights)
    ]
    if superfluous and unfed and len(superfluous) >= min(_MANY, len(unfed) / 2):
        norm = Counter(norms[n] for n in unfed).most_common(1)[0][0]
        yield Mismatch(
            f'{load.name} was trained with Batch Normalization, with running statistics of '
            f'{count(superfluous, "layer")}, the model has {norm} in their place: the filters are '
            'tuned to statistics that are dropped, and the detector trains to a lower AP. '
            f'{advise(load.layers)}',
            is_error=True,
        )
    without_statistics = [
        n for n in norms if n in keeps and f'{n}.weight' in weights and n not in with_statistics
    ]
    if without_statistics:
        yield Mismatch(
            f'{load.name} has no running statistics for the Batch Normalization of the model '
            f'({count(without_statistics, "layer")}): its outputs in evaluation would be '
            'meaningless. Take weights trained with BN, or the norm that they were trained with',
            is_error=True,
        )


def check_norms(load: Load) -> Iterator[Mismatch]:
    """Find norms of another kind or with other groups than the metadata of the checkpoint says."""
    changed = []
    for layer, module in load.layers.items():
        norm, trained = norm_of(module), _trained_norm(load, layer)
        if norm is not None and trained is not None and trained != norm:
            changed.append((layer, trained, norm))
    if changed:
        _, trained, norm = changed[0]
        yield Mismatch(
            f'{load.name} was trained with {_describe(trained)}, the model has {_describe(norm)} '
            f'({count([c[0] for c in changed], "layer")}): it computes something else with the '
            'same weights. Set norm_cfg to that of the checkpoint',
            is_error=True,
        )


def _trained_norm(load: Load, layer: str) -> dict[str, Any] | None:
    weight = load.weights.get(f'{layer}.weight')
    found = None if weight is None else source_of(weight)
    if found is None:
        return None
    source, key = found
    metadata = origin_of(source).metadata
    return None if metadata is None else metadata.norm(parent_of(key))


def _describe(norm: Mapping[str, Any]) -> str:
    groups = f' of {norm["num_groups"]} groups' if 'num_groups' in norm else ''
    return f'{norm["norm"]}{groups}'
