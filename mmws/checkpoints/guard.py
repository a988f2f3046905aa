"""Check that weights were trained with what the layers of a model do, before they are loaded.

MMEngine loads whatever keys and shapes have in common, and logs the rest. Weights of Batch
Normalization in a GN+WS model, or standardized weights in plain convolutions, then train or
evaluate to a worse detector without an error.

What the weights were trained with is known from the record that mmws keeps in its checkpoints
(:mod:`mmws.checkpoints.record`), from the table of published weights
(:mod:`mmws.checkpoints.published`), and from the keys. ``import mmws`` puts :func:`guard_loading`
before every load of MMEngine's. It stops where it knows of a mismatch, and warns where it cannot
know. ``MMWS_CHECKPOINT_GUARD=warn`` in the environment makes it warn only.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mmws.compat import Source, is_installed, source_of
from mmws.layers import GroupNorm, WeightFunctionMixin

from .published import Published, find_pretrained, lookup
from .record import (
    KEY,
    PLAIN,
    STANDARDIZED,
    Record,
    Use,
    has_filters,
    norm_of,
    normalization_of,
    use_of_weight,
)

LOGGER = logging.getLogger(__name__)

SWITCH = 'MMWS_CHECKPOINT_GUARD'
"""Environment variable; ``warn`` turns every refusal into a warning."""

# What users leave out or add on purpose, such as prediction layers for other classes, is fewer
# weights; what another architecture or another norm leaves over is more.
_MANY = 24


class CheckpointMismatchError(ValueError):
    """Weights do not go with the layers that were to load them; nothing was loaded."""


class Verdict(NamedTuple):
    """What is wrong with a load; lines for the user."""

    refusals: list[str]
    warnings: list[str]


def guard_loading(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Check a state dict against a model as :func:`check_weights` does, where mmws has a say.

    That is where the model has layers of mmws, or the weights are known to be trained with other
    than plain convolutions. Anything else passes unseen.

    Raises:
        CheckpointMismatchError: if they do not go together.
    """
    model = _unwrap(model)
    ours = (WeightFunctionMixin, GroupNorm)
    if any(isinstance(m, ours) for m in model.modules()) or any(
        origin.known for origin in _origins(state_dict)
    ):
        for line in check_weights(model, state_dict):
            LOGGER.warning('%s', line)
        _loaded[model] = [(origin.name, origin.normalization()) for origin in _origins(state_dict)]


# For every model or part that loaded weights: names of the checkpoints, and their normalization.
_loaded: MutableMapping[nn.Module, list[tuple[str, dict[str, Any] | None]]] = WeakKeyDictionary()


def check_normalization(model: nn.Module) -> None:
    """Log a warning if parts of a model loaded weights trained on otherwise normalized images.

    On loading, a part such as the backbone cannot know what the model feeds it.

    Args:
        model: A detector; its ``data_preprocessor`` is compared.
    """
    model = _unwrap(model)
    parts = [part for part in model.modules() if part is not model and part in _loaded]
    lines = {
        _differing_normalization(model, name, trained)
        for part in parts
        for name, trained in _loaded[part]
    }
    for line in lines - {None}:
        LOGGER.warning('%s', line)


def check_weights(
    model: nn.Module, state_dict: Mapping[str, Any], *, strict: bool = False
) -> list[str]:
    """Check a state dict against a model, and copy nothing.

    Args:
        model: What is to load it, in wrappers for parallel training or not.
        state_dict: As read from a checkpoint by MMEngine or by
            :func:`mmws.checkpoints.Checkpoint.read`, keys renamed to those of the model or left
            out as wanted.
        strict: Weights must be the model's own, as on resuming: none missing, unexpected or of
            another shape.

    Returns:
        Warnings, each in one line that names the checkpoint, the mismatch, its effect and the fix.

    Raises:
        CheckpointMismatchError: if they do not go together, with such a line.
    """
    refusals, warnings = judge(_unwrap(model), state_dict, strict=strict)
    if os.environ.get(SWITCH) == 'warn':
        return [*refusals, *warnings]
    if refusals:
        raise CheckpointMismatchError(
            f'{refusals[0]}. Nothing was loaded. (To load it all the same, set {SWITCH}=warn.)'
        )
    return warnings


def judge(model: nn.Module, state_dict: Mapping[str, Any], *, strict: bool = False) -> Verdict:
    """Return what is wrong with loading a state dict; arguments as for :func:`check_weights`."""
    weights = {k: v for k, v in state_dict.items() if isinstance(v, Tensor)}
    keys = _Keys(model, _state_dict(model), weights)
    layers = dict(_layers(model))
    name = _name(weights)
    illegible = [
        f'checkpoint {origin.name} has a meta[{KEY!r}] that cannot be read ({origin.illegible}): '
        'what it was trained with is not known. Another version of mmws, or another program, '
        'wrote it'
        for origin in _origins(weights)
        if origin.illegible
    ]
    verdict = Verdict([], illegible)
    if not keys.common:
        verdict.refusals.append(
            f'{name} shares no weight with the model: its keys are like {_some(keys.unexpected)}, '
            f"the model's like {_some(keys.missing)}. Take a checkpoint of this model, or, for a "
            "part of another, init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.')"
        )
        return verdict
    # The first refusal is told: from the most telling to the least.
    _judge_statistics(name, layers, weights, verdict)
    _judge_keys(name, keys, strict, verdict)
    _judge_uses(name, layers, weights, verdict)
    _judge_norms(name, layers, weights, verdict)
    _judge_normalization(model, weights, verdict)
    return verdict


# ------------------------------------------------------------------- where weights come from


class _Origin(NamedTuple):
    """A checkpoint and what is known of it."""

    name: str
    record: Record | None
    published: Published | None
    illegible: str | None = None
    """Why its record cannot be read."""

    @property
    def known(self) -> bool:
        return self.record is not None or self.published is not None

    def use(self, layer: str) -> Use | None:
        """Return how a layer of the checkpoint used its weight, None if that is not known."""
        if self.record is not None:
            return self.record.use(layer)
        if self.published is None:
            return PLAIN if self.name.startswith(('torchvision://', 'modelzoo://')) else None
        if self.published.config is not None and not layer.startswith('backbone.'):
            return None if self.published.conv else PLAIN  # prediction layers are plain
        return STANDARDIZED if self.published.conv else PLAIN

    def normalization(self) -> dict[str, Any] | None:
        if self.record is not None:
            return self.record.data_preprocessor
        return self.published and self.published.data_preprocessor


@lru_cache(maxsize=8)  # asked for every layer
def _origin(source: Source) -> _Origin:
    recorded, record, illegible = source.meta.get(KEY), None, None
    if recorded is not None:
        try:
            record = Record(recorded)
        except ValueError as error:
            illegible = str(error)
    return _Origin(source.name, record, lookup(source.name), illegible)


def _origins(weights: Mapping[str, Any]) -> Iterator[_Origin]:
    """Yield the checkpoints that the weights come from, mostly one."""
    found = (source_of(v) for v in weights.values() if isinstance(v, Tensor))
    return map(_origin, dict.fromkeys(source for source, _ in filter(None, found)))


def _name(weights: Mapping[str, Tensor]) -> str:
    return 'checkpoint ' + (', '.join(origin.name for origin in _origins(weights)) or 'weights')


def _unwrap(model: nn.Module) -> nn.Module:
    while isinstance(model, (DataParallel, DistributedDataParallel)) or _is_mmengine_wrapper(model):
        model = model.module
    return model


def _is_mmengine_wrapper(model: nn.Module) -> bool:
    mmengine = sys.modules.get('mmengine.model')  # imported, if it wraps any model
    return mmengine is not None and (
        mmengine.is_model_wrapper(model) or isinstance(model, mmengine.BaseTTAModel)
    )


def _state_dict(model: nn.Module) -> Mapping[str, Any]:
    """Return the state dict of a model by the names that checkpoints have, without wrappers."""
    if not is_installed('mmengine'):
        return model.state_dict(keep_vars=True)
    from mmengine.runner.checkpoint import get_state_dict

    return get_state_dict(model, keep_vars=True)


def _layers(module: nn.Module, prefix: str = '') -> Iterator[tuple[str, nn.Module]]:
    """Yield modules by the names that MMEngine gives their weights, without wrappers."""
    module = _unwrap(module)
    yield prefix[:-1], module
    for name, child in module.named_children():
        yield from _layers(child, f'{prefix}{name}.')


# ------------------------------------------------------------------------------------- norms


def _judge_statistics(
    name: str, layers: Mapping[str, nn.Module], weights: Mapping[str, Tensor], verdict: Verdict
) -> None:
    """Running statistics for norms that have none, and the other way round."""
    norms = {n: norm['norm'] for n, m in layers.items() if (norm := norm_of(m))}
    with_statistics = {_parent(key) for key in weights if key.endswith('.running_mean')}
    strays = sorted(n for n in with_statistics if norms.get(n) != 'BN')
    # A config with GN renames the norms of a backbone; models outside of MMDetection keep names.
    unfed = [n for n in norms if norms[n] != 'BN' and (n in strays or f'{n}.weight' not in weights)]
    if strays and unfed and len(strays) >= min(_MANY, len(unfed) / 2):
        norm = Counter(norms[n] for n in unfed).most_common(1)[0][0]
        verdict.refusals.append(
            f'{name} was trained with Batch Normalization, with running statistics of '
            f'{_count(strays, "layer")}, the model has {norm} in their place: the filters are '
            'tuned to statistics that are dropped, and the detector trains to a lower AP. '
            f'{_advice(layers)}'
        )
    starved = [
        n for n in norms
        if norms[n] == 'BN' and f'{n}.weight' in weights and n not in with_statistics
    ]  # fmt: skip
    if starved:
        verdict.refusals.append(
            f'{name} has no running statistics for the Batch Normalization of the model '
            f'({_count(starved, "layer")}): its outputs in evaluation would be meaningless. '
            'Take weights trained with BN, or the norm that they were trained with'
        )


def _judge_norms(
    name: str, layers: Mapping[str, nn.Module], weights: Mapping[str, Tensor], verdict: Verdict
) -> None:
    """Norms of another kind or with another number of groups, where a record tells."""
    changed = []
    for layer, module in layers.items():
        norm, trained = norm_of(module), _trained_norm(layer, weights)
        if norm is not None and trained is not None and trained != norm:
            changed.append((layer, trained, norm))
    if changed:
        _, trained, norm = changed[0]
        verdict.refusals.append(
            f'{name} was trained with {_norm_text(trained)}, the model has {_norm_text(norm)} '
            f'({_count([c[0] for c in changed], "layer")}): it computes something else with the '
            'same weights. Set norm_cfg to that of the checkpoint'
        )


def _trained_norm(layer: str, weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    weight = weights.get(f'{layer}.weight')
    found = None if weight is None else source_of(weight)
    if found is None:
        return None
    source, key = found
    record = _origin(source).record
    return None if record is None else record.norm(_parent(key))


def _norm_text(norm: Mapping[str, Any]) -> str:
    groups = f' of {norm["num_groups"]} groups' if 'num_groups' in norm else ''
    return norm['norm'] + groups


# ------------------------------------------------------------------------- weight functions


def _judge_uses(
    name: str, layers: Mapping[str, nn.Module], weights: Mapping[str, Tensor], verdict: Verdict
) -> None:
    """Weights trained with one weight function in layers with another, or with none."""
    refused: dict[tuple[Use, Use], list[str]] = {}
    varied: dict[tuple[Use, Use], list[str]] = {}
    plain: list[str] = []
    unknown: list[str] = []
    for layer, module in layers.items():
        if not has_filters(module) or f'{layer}.weight' not in weights:
            continue
        use = use_of_weight(module)
        trained = _trained_use(layer, weights)
        if use is None or trained == use:
            continue
        if trained is None:
            if _standardizes(use) and _is_read(layer, weights):
                unknown.append(layer)
        elif trained == PLAIN:
            if not _takes_plain_weights(module):
                plain.append(layer)
        elif (trained.function, trained.beside) == (use.function, use.beside):
            if trained.arguments:  # else known by its keys only
                varied.setdefault((trained, use), []).append(layer)
        else:
            refused.setdefault((trained, use), []).append(layer)

    for (trained, use), names in refused.items():
        verdict.refusals.append(
            f'{name} was trained with {trained}, the model has {use} '
            f'({_count(names, "layer")}): it would convolve with other filters than those '
            f'trained, and its outputs are meaningless. {_cure(trained, use)}'
        )
    for (trained, use), names in varied.items():
        verdict.warnings.append(
            f'{name} was trained with {trained} of {_differing(trained, use)}, the model has '
            f'{_differing(use, trained)} ({_count(names, "layer")}): outputs differ a little. Set '
            'these in conv_cfg'
        )
    batch = [n for n, m in layers.items() if (norm_of(m) or {}).get('norm') == 'BN']
    if plain and len(batch) >= len(plain) / 2:
        verdict.refusals.append(
            f'{name} was trained without Weight Standardization, which the model has together '
            f'with Batch Normalization ({_count(plain, "layer")}): running statistics are those '
            'of other filters. Keep these weights exactly by affine WS, '
            "conv_cfg=dict(type='mmws.ConvAWS'), or leave conv_cfg out"
        )
    elif plain:
        verdict.warnings.append(
            f'{name} was trained without Weight Standardization, which the model has '
            f'({_count(plain, "layer")}): filters lose their means and lengths, and the detector '
            f'may train to a lower AP. {_advice(layers, "WS")}, or keep these weights exactly by '
            "affine WS, conv_cfg=dict(type='mmws.ConvAWS')"
        )
    if unknown:
        verdict.warnings.append(
            f'{name} does not say whether it was trained with Weight Standardization, which the '
            f'model has ({_count(unknown, "layer")}): if it was not, the detector may train to a '
            f'lower AP. {_advice(layers, "WS")}, or keep plain weights exactly by affine WS, '
            "conv_cfg=dict(type='mmws.ConvAWS')"
        )


def _trained_use(layer: str, weights: Mapping[str, Tensor]) -> Use | None:
    found = source_of(weights[f'{layer}.weight'])
    trained = None
    if found is not None:
        source, key = found
        trained = _origin(source).use(_parent(key))
    if trained is None:
        # Names of what is stored beside the weight tell all functions but plain WS.
        for use in _TOLD_BY_KEYS:
            if all(f'{layer}.{stored}' in weights for stored in use.beside):
                return use
    return trained


_TOLD_BY_KEYS = (
    Use('Standardize', beside=('weight_gamma', 'weight_beta')),
    Use('Standardize', beside=('gain',)),
    Use('Normalize', beside=('weight_g',)),
)


def _is_read(layer: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether the weight comes from a file; copies between models in memory are fine."""
    return source_of(weights[f'{layer}.weight']) is not None


def _standardizes(use: Use) -> bool:
    return use.function == 'Standardize' and 'weight_gamma' not in use.beside


def _takes_plain_weights(layer: nn.Module) -> bool:
    """Whether the layer starts out computing what the plain layer did."""
    if isinstance(layer, WeightFunctionMixin):
        return layer.adopts_plain_weight()
    return use_of_weight(layer).beside == ('weight_gamma', 'weight_beta')  # MMCV's affine WS


def _differing(use: Use, other: Use) -> str:
    others = dict(other.arguments)
    return ', '.join(f'{k}={v!r}' for k, v in use.arguments if others.get(k) != v)


def _cure(trained: Use, use: Use) -> str:
    if use == PLAIN:
        return (
            'Give the model the same layers (conv_cfg), or fold the checkpoint first, which makes '
            'it plain (mmws.fold)'
        )
    return 'Give the model the same layers (conv_cfg), or take weights trained with its own'


def _advice(layers: Mapping[str, nn.Module], conv: str | None = None) -> str:
    """Name published weights for the model's backbone."""
    if conv is None:
        standardizes = (
            _standardizes(m_use)
            for m in layers.values()
            if has_filters(m) and (m_use := use_of_weight(m)) is not None
        )
        conv = 'WS' if any(standardizes) else None
    for module in layers.values():
        if hasattr(module, 'depth') and hasattr(module, 'style'):
            cfg = {k: v for k, v in vars(module).items() if isinstance(v, (int, str, bool))}
            found = find_pretrained(dict(cfg, type=type(module).__name__), conv)
            if found is not None:
                return f'Take {found.checkpoint}, trained with GN{" and WS" if conv else ""}'
    return f'Take weights trained with GN{" and WS" if conv else ""}'


# -------------------------------------------------------------------------------------- keys


class _Keys:
    """Keys that a model and a state dict have in common or not."""

    def __init__(
        self, model: nn.Module, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]
    ) -> None:
        ignored = _ignored(model)
        self.expected = [k for k in expected if not _is_ignored(k, ignored)]
        self.given = [k for k in given if not _is_ignored(k, ignored)]
        self.common = [k for k in expected if k in given]
        self.missing = [k for k in self.expected if k not in given]
        self.unexpected = [k for k in self.given if k not in expected]
        self.mismatched = [k for k in self.common if expected[k].shape != given[k].shape]


# Loading as usual; other layers rename keys of old or foreign versions, such as MMCV's DCN.
_USUAL = (
    nn.Module._load_from_state_dict,
    _NormBase._load_from_state_dict,
    WeightFunctionMixin._load_from_state_dict,
)


def _ignored(model: nn.Module) -> set[str]:
    """Return keys and layers of which the layers themselves take care when they are loaded."""
    ignored = set()
    for name, layer in _layers(model):
        if isinstance(layer, WeightFunctionMixin):
            ignored.update(f'{name}.{stored}' for stored in layer.beside_weight)
        if layer._parameters and type(layer)._load_from_state_dict not in _USUAL:
            ignored.add(name)
    return ignored


def _is_ignored(key: str, ignored: Collection[str]) -> bool:
    return (
        key.endswith('.num_batches_tracked')
        or key in ignored
        or any(parent in ignored for parent in _parents(key))
    )


def _judge_keys(name: str, keys: _Keys, strict: bool, verdict: Verdict) -> None:
    """Weights left over on either side, more than a user leaves out on purpose."""
    left_over = (
        ('missing', keys.missing),
        ('unexpected', keys.unexpected),
        ('of another shape', keys.mismatched),
    )
    summary = ', '.join(f'{len(k)} {what} (as {_some(k)})' for what, k in left_over if k)
    if strict and summary:
        verdict.refusals.append(
            f'{name} is not of this model, which has {len(keys.expected)} weights: {summary}. '
            'Resume with the config of the checkpoint, or start a new training from it with '
            'load_from'
        )
        return
    missing = _strays(keys.missing, keys.given)
    unexpected = _strays(keys.unexpected, keys.expected)
    touched = {key.partition('.')[0] for key in keys.given}
    wanted = [key for key in keys.expected if key.partition('.')[0] in touched]
    lacking = [key for key in keys.missing if key.partition('.')[0] in touched]
    if (
        max(missing.of_lists, unexpected.of_lists) >= _MANY
        or min(missing.of_layers, unexpected.of_layers) >= _MANY
        or len(lacking) >= max(_MANY, len(wanted) / 2)
        or len(keys.mismatched) >= min(_MANY, math.ceil(len(keys.common) / 2))
    ):
        verdict.refusals.append(
            f'{name} is of another model: {summary}, of {len(keys.expected)} weights in the model. '
            'MMEngine would leave these at random and train or evaluate without an error. Take '
            "weights of this architecture; files with torchvision's or timm's names go through "
            'tools/convert_checkpoint.py'
        )


class _Strays(NamedTuple):
    """Keys left over, without those of parts that the other side does not have at all."""

    of_lists: int
    """Of surplus elements of a list of blocks: a deeper or shallower network."""
    of_layers: int
    """Of single layers or parameters."""


def _strays(keys: Collection[str], others: Iterable[str]) -> _Strays:
    """Count the keys left over that are not those of a part of the model, such as a new head.

    Args:
        keys: Those that the other side lacks.
        others: All keys of the other side.
    """
    theirs = {parent for key in others for parent in _parents(key)}
    with_lists = {_parent(p) for p in theirs if p.rpartition('.')[2].isdigit()}
    of_lists = of_layers = 0
    for key in keys:
        absent = next((p for p in _parents(key) if p not in theirs), None)
        if absent is None or absent == _parent(key):
            of_layers += 1
        elif absent.rpartition('.')[2].isdigit() and _parent(absent) in with_lists:
            inside = key[len(absent) :].split('.')
            of_lists += not any(part.isdigit() for part in inside)  # else a list of whole stages
    return _Strays(of_lists, of_layers)


# -------------------------------------------------------------------------- normalized images


def _judge_normalization(model: nn.Module, weights: Mapping[str, Tensor], verdict: Verdict) -> None:
    for origin in _origins(weights):
        line = _differing_normalization(model, origin.name, origin.normalization())
        if line:
            verdict.warnings.append(line)


def _differing_normalization(
    model: nn.Module, name: str, trained: Mapping[str, Any] | None
) -> str | None:
    """Return a warning if the model normalizes images otherwise than the checkpoint's did."""
    does = normalization_of(model)
    if does is None or trained is None or _close(does, trained):
        return None
    return (
        f'checkpoint {name} was trained on images normalized by {_settings(trained)}, the model '
        f'normalizes by {_settings(does)}: features are off, and AP is lower. Set '
        'model.data_preprocessor to the former'
    )


def _close(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a['bgr_to_rgb'] == b['bgr_to_rgb'] and all(
        len(a[key]) == len(b[key])
        and all(math.isclose(x, y, abs_tol=0.01) for x, y in zip(a[key], b[key]))
        for key in ('mean', 'std')
    )


def _settings(normalization: Mapping[str, Any]) -> str:
    mean, std = ([round(x, 3) for x in normalization[key]] for key in ('mean', 'std'))
    return f'mean={mean}, std={std}, bgr_to_rgb={normalization["bgr_to_rgb"]}'


# -------------------------------------------------------------------------------------- text


def _parent(key: str) -> str:
    return key.rpartition('.')[0]


def _parents(key: str) -> Iterator[str]:
    """Yield the modules on the way to a key, outermost first."""
    parts = key.split('.')
    return ('.'.join(parts[:i]) for i in range(1, len(parts)))


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')


def _count(names: Collection[str], what: str) -> str:
    names = list(names)
    return f'{len(names)} {what}{"" if len(names) == 1 else "s"}, as {_some(names)}'
