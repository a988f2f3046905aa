"""Weights that only one side has: those of another architecture, or of another model at all."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmws.layers import WeightFunctionMixin

from .load import Load, Mismatch
from .model import named_layers, parent_of, parents_of
from .text import some

# Weights that users leave out or add on purpose, such as prediction layers for other classes, are
# fewer than this; those of another architecture or another norm are more.
_MANY = 24


class Keys:
    """Which weights a model and a state dict have in common.

    Attributes:
        expected: Keys of the model.
        given: Keys of the state dict.
        common: Keys of both.
        missing: Keys of the model alone.
        unexpected: Keys of the state dict alone.
        mismatched: Keys of both whose tensors differ in shape.
    """

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


# Layers with another method convert keys of old or foreign versions while they load, as MMCV's DCN
# does, so their keys cannot be compared.
_COMPARABLE = (
    nn.Module._load_from_state_dict,
    _NormBase._load_from_state_dict,
    WeightFunctionMixin._load_from_state_dict,
)


def _ignored(model: nn.Module) -> set[str]:
    """Return keys and layers that the layers themselves handle when they are loaded."""
    ignored: set[str] = set()
    for name, layer in named_layers(model):
        if isinstance(layer, WeightFunctionMixin):
            ignored.update(f'{name}.{extra}' for extra in layer.beside_weight)
        if layer._parameters and type(layer)._load_from_state_dict not in _COMPARABLE:
            ignored.add(name)
    return ignored


def _is_ignored(key: str, ignored: Collection[str]) -> bool:
    return (
        key.endswith('.num_batches_tracked')
        or key in ignored
        or any(parent in ignored for parent in parents_of(key))
    )


def check_overlap(load: Load, keys: Keys) -> Iterator[Mismatch]:
    """Find weights that have no key in common with the model."""
    if not keys.common:
        yield Mismatch(
            f'{load.name} shares no weight with the model: its keys are like '
            f"{some(keys.unexpected)}, the model's like {some(keys.missing)}. Take a checkpoint of "
            "this model, or, for a part of another, init_cfg=dict(type='Pretrained', "
            "checkpoint=..., prefix='backbone.')",
            is_error=True,
        )


def check_keys(load: Load, keys: Keys, strict: bool) -> Iterator[Mismatch]:
    """Find more weights on one side alone than a user leaves out on purpose.

    Args:
        load: The load.
        keys: Its keys.
        strict: Allow no difference at all, as on resuming.
    """
    differing = (
        ('missing', keys.missing),
        ('unexpected', keys.unexpected),
        ('of another shape', keys.mismatched),
    )
    summary = ', '.join(f'{len(k)} {what} (as {some(k)})' for what, k in differing if k)
    if strict and summary:
        yield Mismatch(
            f'{load.name} is not of this model, which has {len(keys.expected)} weights: {summary}. '
            'Resume with the config of the checkpoint, or start a new training from it with '
            'load_from',
            is_error=True,
        )
    elif not strict and _is_another_model(keys):
        yield Mismatch(
            f'{load.name} is of another model: {summary}, of {len(keys.expected)} weights in the '
            'model. MMEngine would leave these at random and train or evaluate without an error. '
            "Take weights of this architecture; files with torchvision's or timm's names go "
            'through tools/convert_checkpoint.py',
            is_error=True,
        )


def _is_another_model(keys: Keys) -> bool:
    missing = _count_leftover(keys.missing, keys.given)
    unexpected = _count_leftover(keys.unexpected, keys.expected)
    # A checkpoint of a backbone lacks the head on purpose: count in parts that it has weights for.
    parts = {key.partition('.')[0] for key in keys.given}
    expected = [key for key in keys.expected if key.partition('.')[0] in parts]
    lacking = [key for key in keys.missing if key.partition('.')[0] in parts]
    return (
        max(missing.in_lists, unexpected.in_lists) >= _MANY
        or min(missing.in_layers, unexpected.in_layers) >= _MANY
        or len(lacking) >= max(_MANY, len(expected) / 2)
        or len(keys.mismatched) >= min(_MANY, math.ceil(len(keys.common) / 2))
    )


class _Leftover(NamedTuple):
    """Numbers of keys that one side alone has, without those of parts that the other side lacks."""

    in_lists: int
    """Keys in surplus elements of a list of blocks, which a deeper network has."""
    in_layers: int
    """Keys of single layers or parameters."""


def _count_leftover(keys: Collection[str], others: Iterable[str]) -> _Leftover:
    """Count the keys of one side, apart from those of a whole part such as a new head.

    Args:
        keys: Keys that the other side lacks.
        others: All keys of the other side.
    """
    theirs = {parent for key in others for parent in parents_of(key)}
    with_lists = {parent_of(p) for p in theirs if p.rpartition('.')[2].isdigit()}
    in_lists = in_layers = 0
    for key in keys:
        absent = next((p for p in parents_of(key) if p not in theirs), None)
        if absent is None or absent == parent_of(key):
            in_layers += 1
        elif absent.rpartition('.')[2].isdigit() and parent_of(absent) in with_lists:
            # A list inside the element means that the list is one of whole stages, not of blocks.
            inside = key[len(absent) :].split('.')
            in_lists += not any(part.isdigit() for part in inside)
    return _Leftover(in_lists, in_layers)
