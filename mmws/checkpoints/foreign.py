"""Convert weights of classifiers of other projects to weights of MMDetection's backbones.

With ``classifier=True`` they become those of MMPretrain's image classifiers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmws.files import replacing

from .checkpoint import Checkpoint
from .metadata import META_KEY, PLAIN, STANDARDIZED, Parametrization, make_metadata

SOURCES = ('jhu', 'torchvision', 'timm')

_CLASSIFIER = re.compile(r'(fc|head|last_linear)\.')
# Keys of convolutions and norms in ResNets and ResNeXts of torchvision, and of timm with its names.
_RESNET = re.compile(
    r'(conv1|[bg]n1|stem\.\d|layer[1-4]\.\d+\.(conv[1-3]|[bg]n[1-3]|downsample\.[012]))'
    r'\.(weight|bias|running_mean|running_var|num_batches_tracked)'
)
_BIT_KEY = re.compile(
    r'(stem\.conv|norm|stages\.\d\.blocks\.\d+\.(norm[1-3]|conv[1-3]|downsample\.conv))\.'
)
_BIT = Parametrization(
    'Standardize',
    (('eps', 1e-8), ('variance', 'biased'), ('eps_inside', True), ('scale', 1.0)),
)

_IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
_HALF = dict(mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True)


class Backbone(NamedTuple):
    """Weights of a backbone of MMDetection or mmws."""

    type: str
    """``ResNet`` (for ResNeXt too), ``ResNetV1d`` or ``mmws.ResNetV2``; ``ImageClassifier`` for one
    of the first two with its classifier."""
    state_dict: dict[str, Tensor]
    record: dict[str, Any]
    """As :func:`mmws.checkpoints.describe_weights` describes a model."""


def convert_checkpoint(
    src: str | Path, source: str, out: str | Path, classifier: bool = False
) -> Backbone:
    """Convert a checkpoint of a classifier to one of a backbone, for ``init_cfg``.

    Args:
        src: A file of weights, a state dict or a dict with a ``state_dict``.
        source: As for :func:`convert_weights`.
        out: The file to write. Its metadata say what the weights were trained with.
        classifier: As for :func:`convert_weights`.

    Returns:
        The backbone that was written.

    Raises:
        FileNotFoundError: if ``src`` is missing.
        FileExistsError: if ``out`` exists.
        ValueError: if ``src`` is no checkpoint of that source. Nothing is written.
    """
    if Path(out).exists():
        raise FileExistsError(f'{out} exists: remove it, or give another name')
    weights = Checkpoint.read(src).weights
    try:
        backbone = convert_weights(weights, source, classifier)
    except ValueError as error:
        raise ValueError(f'checkpoint {src}: {error}') from error
    with replacing(Path(out)) as draft:
        meta = {META_KEY: backbone.record}
        torch.save(dict(state_dict=backbone.state_dict, meta=meta), draft)
    return backbone


def convert_weights(weights: Mapping[str, Any], source: str, classifier: bool = False) -> Backbone:
    """Rename the weights of a classifier to those of a backbone.

    Args:
        weights: State dict, with or without the prefix ``module.``.
        source:

            - ``'jhu'``, the GN+WS ResNets and ResNeXts of the authors of Weight Standardization
              (https://github.com/joe-siyuan-qiao/pytorch-classification),
            - ``'torchvision'``, its ResNets and ResNeXts, or networks with its names and GN,
            - ``'timm'``, its ResNets and ResNeXts with torchvision's names, with the plain stem or
              that of ResNet-D, with BN or GN, and ``resnetv2_*_bit``.
        classifier: Keep the classifier, which is left out otherwise: keys are those of MMPretrain's
            ``ImageClassifier``, ``backbone.*`` and ``head.fc.*``. Not for ``resnetv2_*_bit``.

    Raises:
        ValueError: if a weight does not belong to such a network.
    """
    if source not in SOURCES:
        raise ValueError(f'source must be one of {", ".join(SOURCES)}, not {source!r}')
    weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    head = {key: value for key, value in weights.items() if _CLASSIFIER.match(key)}
    weights = {key: value for key, value in weights.items() if key not in head}
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            raise ValueError(f'{key} is a {type(value).__name__}, no tensor: these are no weights')
    if source == 'timm' and 'stem.conv.weight' in weights:
        if classifier:
            raise ValueError('it is of a BiT ResNet, whose classifier MMPretrain does not have')
        _check(weights, _BIT_KEY, 'BiT ResNet')
        return _backbone('mmws.ResNetV2', weights, _BIT, 'GN', _HALF)

    deep = source == 'timm' and 'conv1.0.weight' in weights
    if deep:
        weights = {_deep_stem(key): value for key, value in weights.items()}
    _check(weights, _RESNET, 'ResNet')
    norm = 'BN' if any(key.endswith('.running_mean') for key in weights) else 'GN'
    if source == 'jhu' and norm != 'GN':
        raise ValueError("it has running statistics of BN, which the authors' GN+WS files lack")
    if norm == 'GN':
        weights = {re.sub(r'(^|\.)bn(\d)', r'\1gn\2', key): v for key, v in weights.items()}
    backbone = _backbone(
        'ResNetV1d' if deep else 'ResNet',
        weights,
        STANDARDIZED if source == 'jhu' else PLAIN,
        norm,
        # timm normalizes images differently from model to model, and the weights do not say how.
        None if source == 'timm' else _IMAGENET,
    )
    return _with_classifier(backbone, head) if classifier else backbone


def _with_classifier(backbone: Backbone, head: Mapping[str, Tensor]) -> Backbone:
    """Return the weights of MMPretrain's ``ImageClassifier``."""
    if sorted(head) != ['fc.bias', 'fc.weight']:
        found = ', '.join(sorted(head)) or 'none of it'
        raise ValueError(f'a classifier needs fc.weight and fc.bias, and it holds {found}')
    weights = {f'backbone.{key}': value for key, value in backbone.state_dict.items()}
    weights.update((f'head.{key}', value) for key, value in head.items())
    record = dict(backbone.record)
    for name in ('weights', 'norms'):
        record[name] = [
            dict(entry, layers=[f'backbone.{layer}' for layer in entry['layers']])
            for entry in record[name]
        ]
    return Backbone('ImageClassifier', weights, record)


def _deep_stem(key: str) -> str:
    """Return MMDetection's key for one of timm: the last norm of the stem is inside of it."""
    return re.sub(r'^conv1\.', 'stem.', re.sub(r'^bn1\.', 'stem.7.', key))


def _check(weights: Mapping[str, Any], pattern: re.Pattern, name: str) -> None:
    foreign = [key for key in weights if not pattern.match(key)]
    if foreign or not weights:
        raise ValueError(
            f'{len(foreign)} of its weights are none of a {name} of that source, as '
            f'{", ".join(foreign[:3])}'
            if foreign
            else 'it holds no weights of a backbone'
        )


def _backbone(
    kind: str,
    weights: dict[str, Tensor],
    parametrization: Parametrization,
    norm: str,
    data_preprocessor: dict[str, Any] | None,
) -> Backbone:
    convs = [k.removesuffix('.weight') for k, v in weights.items() if v.dim() == 4]
    norms = [k.removesuffix('.weight') for k, v in weights.items() if v.dim() == 1]
    norms = sorted({k for k in norms if f'{k}.weight' in weights})
    kinds = dict(norm=norm, num_groups=32) if norm == 'GN' else dict(norm=norm)
    norm_entries = [dict(kinds, layers=norms)]
    record = make_metadata({parametrization: convs}, norm_entries, data_preprocessor)
    return Backbone(kind, weights, record)
