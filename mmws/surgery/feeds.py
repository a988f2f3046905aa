"""Which convolution feeds which normalization, found from the model itself.

A convolution *feeds* a normalization when each use of its output is undone in scale by one: on the
way there lie only operations that commute with a positive factor, such as views, padding, pooling,
concatenation, ReLU and sums with outputs of other convolutions. Weight Standardization then takes
nothing from the model. An output that is used in any other way, or returned, keeps its
convolution plain.

The model is run once on a small input while every tensor that is made of nothing but outputs of
convolutions is followed. What this run does not reach is judged by structure: MMCV's
``ConvModule`` and neighbours in ``nn.Sequential``.
"""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary
from torchvision.ops import DeformConv2d, FrozenBatchNorm2d

from .mmcv_classes import ConvModule, ModulatedDeformConv2d, SyncBatchNorm
from .mmcv_classes import DeformConv2d as MMCVDeformConv2d

_MMCV_DEFORMABLE = (MMCVDeformConv2d, ModulatedDeformConv2d)
CONVOLUTIONS = (_ConvNd, DeformConv2d, *_MMCV_DEFORMABLE)
_NORMALIZATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm, SyncBatchNorm, FrozenBatchNorm2d)
# The frozen batch normalizations of other libraries are subclasses of none of these.
_FROZEN_NAME = 'FrozenBatchNorm'


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Operations of ATen that commute with a positive factor, by name without the `_` of in-place ones.
_HOMOGENEOUS = _words(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _prelu_kernel _reshape_alias _to_copy _unsafe_view
    adaptive_max_pool2d adaptive_max_pool3d alias as_strided avg_pool2d avg_pool3d cat clone
    constant_pad_nd detach dropout expand flip im2col index_select leaky_relu lift_fresh max
    max_pool2d_with_indices max_pool3d_with_indices mean native_dropout permute pixel_shuffle
    pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d relu repeat
    replication_pad1d replication_pad2d replication_pad3d roll select slice split
    split_with_sizes squeeze stack sum t transpose unbind unfold unsqueeze upsample_bicubic2d
    upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_trilinear3d view
    """
)
# Sums do so when all summands are outputs of convolutions, products and quotients by a number.
_SUMS = frozenset({'add', 'sub'})
_SCALINGS = frozenset({'mul', 'div'})
# Of their input only shape, dtype and device matter.
_METADATA = _words(
    """
    empty_like full_like new_empty new_empty_strided new_full new_ones new_zeros ones_like
    rand_like randn_like zeros_like
    """
)
_NORMALIZING = ('batch_norm', 'group_norm', 'layer_norm', 'rms_norm')

_INPUT_SIZES = (64, 224, 512)  # pixels; the first is too small for some models
_PART_SIZE = 16  # pixels of the input of a part whose channels may be many


def is_normalization(module: nn.Module) -> bool:
    """Whether ``module`` normalizes its input."""
    return isinstance(module, _NORMALIZATIONS) or _FROZEN_NAME in type(module).__name__


@dataclass
class Feeds:
    """What was found about the convolutions of a model.

    Attributes:
        norms: For each convolution the normalizations that its output goes into. A normalization
            that is no module is missing here, though the convolution has an entry.
        other_uses: What else was done with its output, in words.
        weight_used_alone: The convolutions whose weight a model takes for a computation of its own,
            as MMDetection's TOOD does: no layer can stand between the two.
        odd_offsets: The deformable convolutions of MMCV that were given more offsets than they have
            outputs, as in MMDetection's DyHead: torchvision's operator refuses that.
        reached: The convolutions that ran, or whose place in the structure tells.
        stopped_by: Why the traced run of the whole model ended early; ``None`` if it did not.
    """

    norms: dict[nn.Module, list[nn.Module]] = field(default_factory=dict)
    other_uses: dict[nn.Module, set[str]] = field(default_factory=lambda: defaultdict(set))
    weight_used_alone: set[nn.Module] = field(default_factory=set)
    odd_offsets: set[nn.Module] = field(default_factory=set)
    reached: set[nn.Module] = field(default_factory=set)
    stopped_by: str | None = None

    def add(self, conv: nn.Module, norm: nn.Module | None) -> None:
        norms = self.norms.setdefault(conv, [])
        if norm is not None and norm not in norms:
            norms.append(norm)

    def complete(self, model: nn.Module) -> bool:
        """Whether each convolution of ``model`` was reached."""
        return all(m in self.reached for m in model.modules() if isinstance(m, CONVOLUTIONS))

    def why_not(self, conv: nn.Module) -> str | None:
        """Return why ``conv`` does not feed a normalization, ``None`` if it does."""
        if conv not in self.reached:
            return 'not reached by the traced run (pass inputs that reach it)'
        if conv not in self.norms:
            return 'feeds no normalization'
        if conv in self.odd_offsets:
            return 'is given more offsets than it has outputs'
        if conv in self.weight_used_alone:
            return 'its weight is used without it'
        uses = sorted(self.other_uses[conv])
        return f'its output also goes into {", ".join(uses)}' if uses else None


def find_feeds(model: nn.Module, inputs: Any = None) -> Feeds:
    """Find out which convolutions of ``model`` feed a normalization.

    The run changes nothing in the model: no statistics, mode, gradient or random state.

    Args:
        model: Any model.
        inputs: What to run it with: a tuple of positional arguments, a dict of keyword arguments
            or a single argument. ``None``: small random images :math:`(1, C, H, W)`, to
            MMDetection's detectors with the data sample they want.

    Raises:
        ValueError: if the model cannot be run with ``inputs``, or has layers without weights yet.
    """
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError('the model has lazy layers: run it once before')
    feeds = Feeds()
    with _undisturbed(model), _Tracer(model, feeds) as tracer:
        if inputs is None:
            feeds.stopped_by = _trace_with_own_inputs(model, tracer)
        else:
            error = tracer.run(lambda: _call(model, inputs))
            if error is not None:
                raise ValueError(f'the model cannot be run with the inputs given: {error}')
    _add_structure(model, feeds)
    return feeds


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


# ---- The traced run


class _Tracer(TorchDispatchMode):
    """Follows the outputs of convolutions through every operation of PyTorch."""

    def __init__(self, model: nn.Module, feeds: Feeds) -> None:
        super().__init__()
        self.feeds = feeds
        self._made_of = WeakTensorKeyDictionary()  # tensor -> the convolutions it is made of
        self._owners: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # weight -> convolutions
        self._convs_running = 0
        self._norms_running = 0
        self._handles = []
        for module in model.modules():
            if isinstance(module, CONVOLUTIONS):
                self._owners.setdefault(module.weight, []).append(module)
                self._handles += [
                    module.register_forward_pre_hook(self._before_convolution),
                    module.register_forward_hook(self._after_convolution),
                ]
            elif is_normalization(module):
                before, after = self._before_normalization, self._after_normalization
                self._handles += [
                    module.register_forward_pre_hook(before),
                    module.register_forward_hook(after),
                ]

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        for handle in self._handles:
            handle.remove()

    def run(self, call: Callable[[], Any]) -> str | None:
        """Run the model; return in one line why it stopped, ``None`` if it went through."""
        self._convs_running = self._norms_running = 0
        try:
            for tensor in _tensors(call()):
                self._use(tensor, "the model's output")
        except Exception as error:  # a run that ends early has still told much
            return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
        return None

    def _before_convolution(self, conv: nn.Module, args: tuple) -> None:
        self._convs_running += 1

    def _after_convolution(self, conv: nn.Module, args: tuple, output: Any) -> None:
        self._convs_running -= 1
        self.feeds.reached.add(conv)
        if isinstance(output, Tensor):
            self._made_of[output] = frozenset((conv,))
            given_offsets = isinstance(conv, _MMCV_DEFORMABLE) and len(args) > 1
            if given_offsets and args[1].shape[2:] != output.shape[2:]:
                self.feeds.odd_offsets.add(conv)

    def _before_normalization(self, norm: nn.Module, args: tuple) -> None:
        self._norms_running += 1
        for tensor in _tensors(args):
            for conv in self._made_of.get(tensor, ()):
                self.feeds.add(conv, norm)

    def _after_normalization(self, norm: nn.Module, args: tuple, output: Any) -> None:
        self._norms_running -= 1
        for tensor in _tensors(output):
            self._made_of.pop(tensor, None)  # of one that works in place

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if self._norms_running:
            return output
        tensors = _tensors((args, kwargs))
        name = func._schema.name.rpartition('::')[2].rstrip('_')
        if not self._convs_running and name not in _METADATA:
            for tensor in tensors:
                self.feeds.weight_used_alone.update(self._owners.get(tensor, ()))
        convs = frozenset().union(*(self._made_of.get(t, ()) for t in tensors))
        if convs:
            if any(word in name for word in _NORMALIZING):  # called as a function
                for conv in convs:
                    self.feeds.add(conv, None)
            elif self._is_homogeneous(name, tensors):
                for tensor in _tensors(output):
                    self._made_of[tensor] = convs
            elif name not in _METADATA:
                for tensor in tensors:
                    self._use(tensor, name)
        return output

    def _is_homogeneous(self, name: str, tensors: list[Tensor]) -> bool:
        if name in _SUMS:
            return len(tensors) > 1 and all(t in self._made_of for t in tensors)
        return name in _HOMOGENEOUS or (name in _SCALINGS and len(tensors) == 1)

    def _use(self, tensor: Tensor, what: str) -> None:
        for conv in self._made_of.get(tensor, ()):
            self.feeds.other_uses[conv].add(what)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Run in evaluation mode, without gradients and hooks of others, and leave no trace."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    hooks = [(module._forward_pre_hooks, module._forward_hooks) for module in modules]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    # MMCV can fold a batch normalization into the convolution in evaluation; neither runs then.
    fused = [(m, m.efficient_conv_bn_eval_forward) for m in modules if isinstance(m, ConvModule)]
    states = random.getstate(), np.random.get_state()
    devices = {p.device for p in model.parameters() if p.device.type == 'cuda'}
    try:
        for module in modules:
            module.training = False  # not eval(), which models override
            # Emptied by replacement: the handles of the owners keep their dictionaries.
            module._forward_pre_hooks = type(module._forward_pre_hooks)()
            module._forward_hooks = type(module._forward_hooks)()
        for module, _ in fused:
            module.efficient_conv_bn_eval_forward = None
        with torch.random.fork_rng(list(devices)), torch.no_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for module, mode, (pre_hooks, forward_hooks) in zip(modules, modes, hooks):
            module.training = mode
            module._forward_pre_hooks, module._forward_hooks = pre_hooks, forward_hooks
        for module, function in fused:
            module.efficient_conv_bn_eval_forward = function
        with torch.no_grad():
            for buffer, value in buffers:
                if not buffer.is_inference():
                    buffer.copy_(value)


# ---- Inputs for models that come without


def _trace_with_own_inputs(model: nn.Module, tracer: _Tracer, part: bool = False) -> str | None:
    """Run ``model`` with random images; then those of its parts that were not reached.

    Returns:
        Why the last run of ``model`` stopped early; ``None`` if it did not.
    """
    error = None
    for call in _own_calls(model, part):
        error = tracer.run(call)
        if error is None:
            break
    _trace_parts(model, tracer)
    return error


def _trace_parts(model: nn.Module, tracer: _Tracer) -> None:
    for child in model.children():
        convs = {m for m in child.modules() if isinstance(m, CONVOLUTIONS)}
        unreached = convs - tracer.feeds.reached
        if not unreached or not any(is_normalization(m) for m in child.modules()):
            continue
        if unreached == convs and not isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            _trace_with_own_inputs(child, tracer, part=True)
        else:
            _trace_parts(child, tracer)


def _own_calls(model: nn.Module, part: bool) -> Iterator[Callable[[], Any]]:
    """Yield ways to run ``model`` on random images, the likeliest first."""
    if _is_mmdet_detector(model):
        for size in _INPUT_SIZES:
            yield lambda size=size: _run_mmdet(model, size)
        return
    conv = next((m for m in model.modules() if isinstance(m, CONVOLUTIONS)), None)
    if conv is None:
        return
    dims = conv.weight.dim() - 2
    for size in (_PART_SIZE,) if part else _INPUT_SIZES:
        images = _images(conv.weight, conv.in_channels, *[size] * dims)
        yield lambda images=images: model(images)


def _images(like: Tensor, *shape: int) -> Tensor:
    # A generator of its own: seeding the global ones would reach GPUs that are none of the model's.
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, *shape, generator=generator).to(like)


def _is_mmdet_detector(model: nn.Module) -> bool:
    base = sys.modules.get('mmdet.models.detectors.base')  # loaded by any of its detectors
    return base is not None and isinstance(model, base.BaseDetector)


def _run_mmdet(model: nn.Module, size: int) -> Any:
    from mmdet.structures import DetDataSample

    shape = (size, size)
    sample = DetDataSample(
        metainfo=dict(
            img_id=0, img_path='', ori_shape=shape, img_shape=shape, pad_shape=shape,
            batch_input_shape=shape, scale_factor=(1.0, 1.0), flip=False, flip_direction=None,
        )
    )  # fmt: skip
    images = _images(next(model.parameters()), 3, *shape)
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


# ---- Structure


def _add_structure(model: nn.Module, feeds: Feeds) -> None:
    """Add what structure tells about the convolutions that did not run."""
    for module in model.modules():
        for before, after in _neighbours(module):
            if isinstance(before, CONVOLUTIONS) and before not in feeds.reached:
                feeds.add(before, after if is_normalization(after) else None)
    for conv in list(feeds.norms):
        feeds.reached.add(conv)


def _neighbours(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield pairs of a layer and the normalization that alone takes its output."""
    if isinstance(module, ConvModule):
        if module.with_norm and ('conv', 'norm') in pairwise(module.order):
            yield module.conv, module.norm
    elif isinstance(module, nn.Sequential):
        for before, after in pairwise(m for m in module if not isinstance(m, nn.Identity)):
            if is_normalization(after):
                yield before, after
