"""Inputs for models that are converted without any: small, random, of the form the model takes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmws.surgery.libraries import is_convolution, is_linear, loaded_classes

# Spatial shapes by number of dimensions. The first is too small for some models, and the last of
# images is the only one that models of small images and of patches take.
_SHAPES: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((64,), (1024,), (16000,)),
    2: ((64, 64), (224, 224), (512, 512), (32, 32)),
    3: ((16, 64, 64), (64, 64, 64), (16, 224, 224)),
}
_PART_SIZE = 16  # elements in each dimension of the input of a part, whose channels may be many
_TOKENS = 16
_SAMPLES = 4000  # of a waveform
_NODES = 8  # of a graph

_SEQUENTIAL = (nn.Embedding, nn.RNNBase)

Call = Callable[[], Any]


def call_with(model: nn.Module, inputs: Any) -> Any:
    """Call ``model`` with a tuple of arguments, a dict of keyword arguments or one argument."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def own_calls(model: nn.Module, part: bool = False) -> Iterator[Call]:
    """Yield ways to run ``model`` on random inputs, the likeliest first.

    Args:
        model: The model, or a part of one.
        part: Whether it is a part, which is given no further shapes of images.
    """
    if is_mmdet_detector(model):
        for size in (64, 224, 512):
            yield lambda size=size: run_mmdet(model, size)  # type: ignore[misc]
        return
    for inputs in _inputs(model, part):
        yield lambda inputs=inputs: call_with(model, inputs)  # type: ignore[misc]


def larger_call(model: nn.Module) -> Call:
    """Return a run of ``model`` on an image larger than the first of :func:`own_calls`.

    Raises:
        ValueError: if ``model`` does not take images.
    """
    if is_mmdet_detector(model):
        return lambda: run_mmdet(model, 256)
    conv = _first_convolution(model)
    if conv is None or conv.weight.dim() != 4:
        raise ValueError('the model takes no images')
    images = _random(conv.weight, conv.in_channels, 256, 256)
    return lambda: model(images)


def _inputs(model: nn.Module, part: bool) -> Iterator[Any]:
    if isinstance(model, loaded_classes('transformers', 'PreTrainedModel')):
        yield from _transformers_inputs(model)
        return
    names = _required_arguments(model)
    if 'edge_index' in names:
        yield _graph(model, names)
        return
    first = next((m for m in model.modules() if _takes_input(m)), None)
    if first is None:
        return
    count = max(1, len(names))
    for value in _values(model, first, part):
        yield (value,) * count


def _values(model: nn.Module, first: Any, part: bool) -> Iterator[Tensor]:
    if isinstance(first, nn.Embedding):
        yield torch.arange(_TOKENS, device=first.weight.device)[None] % first.num_embeddings
        return
    conv = _first_convolution(model)
    if not is_convolution(first) and (conv is None or conv.weight.dim() == 3):
        features = first.weight.shape[1] if is_linear(first) else first.input_size
        like = next(first.parameters())
        yield _random(like, features, batch=4)
        yield _random(like, _TOKENS, features)
    if conv is not None:
        yield from _values_of_convolution(model, conv, part)
    if part or (conv is not None and conv.weight.dim() != 4):
        return
    like = next(first.parameters())
    size = (getattr(model, 'pretrained_cfg', None) or {}).get('input_size')  # timm's
    if isinstance(size, (tuple, list)):
        yield _random(like, *size)
    # A model may make further channels of an image before its first convolution or linear layer:
    # features computed without weights, or the pixels of a block.
    for channels in (3, 1):
        if conv is None or channels != conv.in_channels:
            for shape in _SHAPES[2]:
                yield _random(like, channels, *shape)


def _values_of_convolution(model: nn.Module, conv: Any, part: bool) -> Iterator[Tensor]:
    """Yield what the first convolution of a model, or of a part of one, takes."""
    dims = conv.weight.dim() - 2
    if part:
        yield _random(conv.weight, conv.in_channels, *(_PART_SIZE,) * dims)
        return
    if dims == 1 and conv.in_channels == 1:  # of audio: a waveform without channels
        yield _random(conv.weight, _SAMPLES)
    for shape in _SHAPES[dims]:
        yield _random(conv.weight, conv.in_channels, *shape)
    # A model of two branches may take what its second one takes, as Demucs does a waveform.
    others: dict[int, Any] = {dims: conv}
    convs: Iterator[Any] = filter(is_convolution, model.modules())
    for module in convs:
        others.setdefault(module.weight.dim() - 2, module)
    for other_dims, other in list(others.items())[1:]:
        for shape in _SHAPES[other_dims]:
            yield _random(other.weight, other.in_channels, *shape)


def _first_convolution(model: nn.Module) -> Any:
    return next((m for m in model.modules() if is_convolution(m)), None)


def _takes_input(module: nn.Module) -> bool:
    return is_convolution(module) or is_linear(module) or isinstance(module, _SEQUENTIAL)


def _required_arguments(model: nn.Module) -> list[str]:
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # of a function of C++
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty]


def _graph(model: nn.Module, names: list[str]) -> dict[str, Any]:
    """Return a ring of nodes, for the models of PyTorch Geometric."""
    like = next(model.parameters())
    ring = torch.arange(_NODES, device=like.device)
    channels = getattr(model, 'in_channels', None)
    if not isinstance(channels, int):
        first: Any = next(filter(is_linear, model.modules()), None)
        channels = 1 if first is None else first.weight.shape[1]
    known: dict[str, Any] = {
        'x': _random(like, channels, batch=_NODES),
        'edge_index': torch.stack((ring, ring.roll(1))),
        'batch': torch.zeros(_NODES, dtype=torch.long, device=like.device),
        'edge_weight': torch.ones(_NODES, device=like.device),
        'pos': _random(like, 3, batch=_NODES),
        'z': torch.ones(_NODES, dtype=torch.long, device=like.device),
    }
    return {name: known[name] for name in names if name in known}


def _transformers_inputs(model: Any) -> Iterator[dict[str, Any]]:
    """Yield what models of transformers take, by the name of their main input."""
    config, like = model.config, next(model.parameters())
    name = getattr(model, 'main_input_name', 'input_ids')
    known = ('input_ids', 'pixel_values', 'input_values', 'input_features')
    taken = inspect.signature(model.forward).parameters
    if name not in known:  # Perceiver calls its input "inputs", of any kind
        name = next((other for other in known if other in taken), name)
    if name == 'pixel_values' and 'spatial_shapes' in taken:  # patches of images of any shape
        vision = getattr(config, 'vision_config', config)
        features = vision.num_channels * vision.patch_size**2
        yield {
            name: _random(like, _TOKENS, features),
            'pixel_attention_mask': torch.ones(1, _TOKENS, dtype=torch.long, device=like.device),
            'spatial_shapes': torch.tensor([[_TOKENS // 4, 4]], device=like.device),
        }
    if name == 'pixel_values':
        channels = getattr(config, 'num_channels', 3)
        size = getattr(config, 'image_size', 224)
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        for shape in ((64, 64), (height, width)):
            yield {name: _random(like, channels, *shape)}
    elif name == 'input_values':
        yield {name: _random(like, _SAMPLES)}
        yield {name: _random(like, 1024, 128)}
    elif name == 'input_features':
        yield {name: _random(like, getattr(config, 'num_mel_bins', 80), 3000)}
    dummy = getattr(model, 'dummy_inputs', None)
    if isinstance(dummy, dict):
        yield {k: v.to(like.device) if isinstance(v, Tensor) else v for k, v in dummy.items()}


def _random(like: Tensor, *shape: int, batch: int = 1) -> Tensor:
    # A generator of its own: seeding the global ones would reach GPUs that are none of the model's.
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *shape, generator=generator, device='cpu').to(like)


# ---- MMDetection


def is_mmdet_detector(model: nn.Module) -> bool:
    """Return whether ``model`` is a detector of MMDetection."""
    base = sys.modules.get('mmdet.models.detectors.base')  # loaded by any of its detectors
    return base is not None and isinstance(model, base.BaseDetector)


def run_mmdet(model: nn.Module, size: int) -> Any:
    """Run a detector on one image of height and width ``size``."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    shape = (size, size)
    sample = DetDataSample(
        metainfo=dict(
            img_id=0, img_path='', ori_shape=shape, img_shape=shape, pad_shape=shape,
            batch_input_shape=shape, scale_factor=(1.0, 1.0), flip=False, flip_direction=None,
        )
    )  # fmt: skip
    corners = torch.tensor([[0.1, 0.1, 0.9, 0.8], [0.3, 0.2, 0.6, 0.7]], device='cpu')
    boxes = corners.to(next(model.parameters())) * size
    # CondInst's masks are those of the boxes that its loss assigns to the objects.
    labels = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    if getattr(model, 'with_rpn', None) is False:  # it is given regions, as Fast R-CNN
        sample.proposals = InstanceData(bboxes=boxes, scores=boxes.new_ones(len(boxes)))
    images = _random(next(model.parameters()), 3, *shape)
    with _few_proposals(getattr(model, 'rpn_head', None)):
        return model(images, [sample], mode='tensor')


@contextmanager
def _few_proposals(rpn_head: nn.Module | None) -> Iterator[None]:
    """Run the heads of a two-stage detector on a few regions instead of a thousand."""
    limits = getattr(rpn_head, 'test_cfg', None)
    if not isinstance(limits, dict) or 'max_per_img' not in limits:
        yield
        return
    before = limits['max_per_img']
    limits['max_per_img'] = 4
    try:
        yield
    finally:
        limits['max_per_img'] = before
