"""Values remade in the backward pass instead of kept from the forward pass.

Autograd keeps the input of every convolution and norm. Many of them are cheap to compute from other
kept tensors: the output of a norm and an activation from the input of the norm, a sum of such
outputs, also if they were enlarged, as in a feature pyramid, the output of a 1×1 convolution to at
least twice the channels from its narrow input, a made weight from the stored one. Hooks for saved
tensors put a recipe in place of such a tensor.

How a tensor is recognized: autograd saves it as a tensor object of its own, but with the same
storage. So the recipe is found by storage, version, shape and strides. A storage is identified by
its address while a weak reference is held: the reference keeps the address, though not the memory,
from being used again. An activation saves its result before anything can know where the result
came from; what is not known yet is put into a box, and when it becomes known, what is in the box is
exchanged for the recipe.

A remade value is dropped when the last tensor of the graph that stands for it is dropped, which
autograd does node by node. Nothing random and nothing with batch statistics is remade. A changed
version of an ingredient is an error, as in plain autograd.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _BatchNorm

from mmws.compat.torch_private import (
    autocast_dtype,
    is_tracing,
    storage_address,
    top_pack_hook,
)
from mmws.functional import apply, closed_form_applies
from mmws.layers import GroupNorm, WeightFunctionMixin
from mmws.layers.kinds import ConvKind, ConvTransposeKind, LinearKind
from mmws.layers.source import WeightSource, active

from .hooked import is_hooked, observer
from .recipes import Box, Kept, Recipe, Slot
from .results import OPERATIONS, Results
from .together import autocast_device

CONSUMERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.modules.conv._ConvTransposeNd)
"""Layers that keep their input, which is looked at before they run."""

_FORWARDS = {
    *(
        getattr(nn, f'{kind}{dims}d').forward
        for kind in ('Conv', 'ConvTranspose')
        for dims in (1, 2, 3)
    ),
    *(kind.forward for kind in (nn.Linear, ConvKind, ConvTransposeKind, LinearKind)),
}
_MMCV_WRAPPERS = 'mmcv.cnn.bricks.wrappers'
"""MMCV's own convolutions, whose forward calls PyTorch's but for inputs without elements."""

NORMS = (nn.GroupNorm, _BatchNorm)

FLOAT32_NORMS = {'cuda'}
"""Devices on which autocast lets Group Normalization compute in float32."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    'ReluBackward0': torch.relu,
    'SiluBackward0': F.silu,
    'HardswishBackward0': F.hardswish,
}
"""Activations without arguments, by the node that they leave in the graph."""

MIN_BYTES = 2**16
"""Smaller values are kept: looking after them takes longer than remaking them saves."""

WIDENING = 2
"""A 1×1 convolution is remade if its output has at least this many times its input's channels."""


class _Known(NamedTuple):
    """A tensor in a storage, and its recipe."""

    storage: StorageWeakRef
    version: int
    dtype: torch.dtype
    shape: torch.Size
    strides: tuple[int, ...]
    recipe: Recipe


_Place = tuple[int, int]
"""The address of a storage, and where in it a tensor begins: weights may share a storage."""


def _place(tensor: Tensor) -> _Place:
    return storage_address(tensor), int(tensor.storage_offset())


class RemakingPass:
    """One forward pass whose saved tensors are remade where a recipe is known.

    Args:
        weights: The source of weights made together, None if layers make their own.
        sharded: Whether parts of the model are units of FSDP.
    """

    def __init__(self, weights: WeightSource | None, sharded: bool = False) -> None:
        self.weights = weights
        self._sharded = sharded
        self._known: dict[_Place, _Known] = {}
        self._boxes: dict[_Place, tuple[StorageWeakRef, list[weakref.ref[Box]]]] = {}
        self._results = Results()
        self._weights: dict[nn.Module, Tensor] = {}
        self._pack_hook = self._pack
        self._hooks = saved_tensors_hooks(self._pack_hook, lambda stand_in: stand_in.value())
        self._hooks.__enter__()

    def close(self) -> None:
        """End the pass: what the graph does not hold is dropped."""
        self._hooks.__exit__(None, None, None)
        del self._hooks, self._pack_hook  # a cycle, which would keep the pass until a collection
        self._known.clear()
        self._boxes.clear()
        self._results.clear()
        self._weights.clear()

    def weight_of(self, layer: WeightFunctionMixin) -> Tensor | None:
        """Return the layer's weight, and note how it is remade."""
        weight = None if self.weights is None else self.weights.weight_of(layer)
        if _is_parametrized(layer):  # each reading of its tensors may give others
            return weight
        function, stored = layer.stored_function(), layer.stored_weights()
        if weight is None:
            if not closed_form_applies(*stored):
                return None
            half = autocast_dtype(autocast_device(layer, stored))
            weight = apply(function, *stored)
            weight = weight if half is None else weight.to(half)
        if _is_widening(layer):
            self._weights[layer] = weight
        # A kept weight would keep those that share its storage.
        shared = weight.nbytes < weight.untyped_storage().nbytes()
        if (shared or weight.nbytes >= MIN_BYTES) and self._saves():
            weight_dtype = weight.dtype

            def remake(weight: Tensor, *others: Tensor | None) -> Tensor:
                return apply(function, weight, *others).to(weight_dtype)

            self._note(weight, Recipe(remake, *map(Kept, stored), device=weight.device))
        return weight

    def before_layer(self, layer: Any, x: Tensor) -> Tensor | None:
        """Recognize the input of a layer; return it as autocast will cast it, None if it will not.

        Autocast would cast it out of sight, and autograd would keep the copy.
        """
        if isinstance(layer, CONSUMERS):
            self._recognize(x)
        dtype = _dtype_under_autocast(layer, x)
        if dtype is None or dtype == x.dtype or not _has_storage(x) or not self._saves():
            return None
        cast = x.to(dtype)
        # A copy in half precision is smaller than its source: worth it if that one is there anyway.
        free = dtype == torch.float32 or self._find(x) is not None or _place(x) in self._boxes
        if free and self._worthwhile(cast):
            self._note(cast, Recipe(lambda x: x.to(dtype), self._ingredient(x), device=x.device))
        return cast

    def _recognize(self, x: Tensor) -> None:
        """Note how a sum of norms, or an activation of a norm or of such a sum, is remade."""
        node = x.grad_fn
        activation = None if node is None else ACTIVATIONS.get(node.name())
        if node is None or not (activation or node.name() in OPERATIONS):
            return
        if not self._worthwhile(x) or self._find(x) is not None:
            return
        result = self._results.of(node.next_functions[0][0] if activation else node, x.device)
        if result is None or result.dtype != x.dtype:
            return
        if activation is not None:
            result = result.after(Recipe(activation, result.recipe, device=x.device))
        _, boxes = self._boxes.get(_place(x), (None, []))
        versions = [box.version for box in (reference() for reference in boxes) if box is not None]
        saved = node.name() == 'ReluBackward0' and x._version in versions
        if result.is_unchanged(x, storage_address(x), saved):
            self._note(x, result.recipe)

    def after_norm(self, norm: Any, args: tuple[Any, ...], out: Any) -> None:
        """Note how the output of a norm is remade from its input."""
        function = _norm_function(norm)
        if function is None or not self._worthwhile(out) or len(args) != 1:
            return
        x = args[0]
        tensors = [norm.weight, norm.bias]
        if isinstance(norm, _BatchNorm):
            tensors += [norm.running_mean, norm.running_var]
        if self._sharded:  # FSDP frees these tensors before another unit's backward pass needs them
            tensors = [None if t is None else t.detach().clone() for t in tensors]
        recipe = Recipe(function, self._ingredient(x), *map(Kept, tensors), device=x.device)
        self._results.add_norm(out, storage_address(out), recipe)
        self._note(out, recipe)

    def after_convolution(self, layer: Any, args: tuple[Any, ...], out: Any) -> None:
        """Note how the output of a 1×1 convolution to many more channels is remade."""
        if self._sharded or not _is_widening(layer) or not self._worthwhile(out) or len(args) != 1:
            return
        x = args[0]
        if x.dim() != layer.weight.dim():  # no batch
            return
        weight = self._weights.pop(layer, None)  # what the layer has just computed with
        if weight is None:
            if isinstance(layer, WeightFunctionMixin):
                return
            weight = layer.weight
        ingredients = self._ingredient(x), self._ingredient(weight), Kept(layer.bias)
        convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.dim()]
        options = layer.stride, layer.padding, layer.dilation, layer.groups

        def remake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return convolve(x, weight, bias, *options)

        self._note(out, Recipe(remake, *ingredients, device=out.device))

    def _worthwhile(self, value: Any) -> bool:
        """Whether a value may be remade: saved by this pass, alone in its storage, and large."""
        return (
            type(value) is Tensor  # not a fake or a distributed one
            and _has_storage(value)
            and value.requires_grad
            and value.grad_fn is not None
            and int(value.storage_offset()) == 0
            and value.nbytes >= MIN_BYTES
            and value.nbytes == value.untyped_storage().nbytes()
            and self._saves()
        )

    def _saves(self) -> bool:
        """Whether this pass decides what autograd saves now.

        In the region of an activation checkpoint, where nothing is kept, other hooks are on top.
        """
        return top_pack_hook() is self._pack_hook

    def _ingredient(self, tensor: Tensor) -> Kept | Recipe:
        known = self._find(tensor)
        if known is None:
            return Kept(tensor)
        view = tensor.shape, tensor.stride()
        if view == (known.shape, known.strides):
            return known.recipe
        return Recipe(lambda x: x.as_strided(*view), known.recipe, device=tensor.device)

    def _find(self, tensor: Tensor) -> _Known | None:
        """Return what is known of the memory of a tensor, which may be a view of what is remade."""
        known = self._known.get(_place(tensor))
        if known is None or known.version != tensor._version or known.dtype != tensor.dtype:
            return None
        return known if tensor.numel() <= known.shape.numel() else None

    def _note(self, tensor: Tensor, recipe: Recipe) -> None:
        place = _place(tensor)
        reference = StorageWeakRef(tensor.untyped_storage())
        recipe.strides = tensor.stride()
        self._known[place] = _Known(
            reference, tensor._version, tensor.dtype, tensor.shape, recipe.strides, recipe
        )
        _, boxes = self._boxes.pop(place, (None, []))
        for box in (reference() for reference in boxes):
            if box is not None and box.version == tensor._version:
                assert isinstance(box.content, Tensor)  # a box is filled with a recipe once
                box.content = Slot(recipe, box.content)

    def _pack(self, tensor: Tensor) -> Box | Slot:
        if type(tensor) is not Tensor or not _has_storage(tensor):  # such as a parameter
            return Box(tensor)
        known = self._find(tensor)
        if known is not None:
            return Slot(known.recipe, tensor)
        box = Box(tensor)
        place = _place(tensor)
        if place not in self._boxes:
            self._boxes[place] = StorageWeakRef(tensor.untyped_storage()), []
        self._boxes[place][1].append(weakref.ref(box))
        return box


def _has_storage(tensor: Tensor) -> bool:
    """Whether a tensor is in a memory of its own; sparse tensors consist of others."""
    return tensor.layout is torch.strided


def _is_parametrized(layer: nn.Module) -> bool:
    return 'parametrizations' in layer._modules


def _is_itself(layer: nn.Module) -> bool:
    """Whether nothing but its class and its own tensors makes what a layer puts out."""
    return not (is_hooked(layer) or _is_parametrized(layer) or 'forward' in vars(layer))


def _norm_function(norm: Any) -> Callable[..., Tensor] | None:
    """Return what a norm does with its input and its tensors, None if that is not known."""
    if not _is_itself(norm):
        return None
    eps = norm.eps
    if type(norm).forward in (nn.GroupNorm.forward, GroupNorm.forward):
        groups = norm.num_groups

        def group_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
            return torch.group_norm(x, groups, weight, bias, eps)

        return group_norm
    frozen = not norm.training and getattr(norm, 'running_mean', None) is not None
    if type(norm).forward is _BatchNorm.forward and frozen:  # batch statistics are not remade

        def batch_norm(
            x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor
        ) -> Tensor:
            return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

        return batch_norm
    return None


def _dtype_under_autocast(layer: Any, x: Tensor) -> torch.dtype | None:
    """Return the dtype to which autocast casts the input of a layer, None if to none."""
    half = autocast_dtype(x.device.type)
    if half is None or x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return None
    if isinstance(layer, CONSUMERS):
        # The forward of another class may leave autocast, to compute in float32.
        known = type(layer).forward in _FORWARDS or type(layer).__module__ == _MMCV_WRAPPERS
        known = known and 'forward' not in vars(layer)
        return half if known and getattr(layer, 'half_precision', True) else None
    norm = type(layer).forward in (nn.GroupNorm.forward, GroupNorm.forward)
    return torch.float32 if norm and x.device.type in FLOAT32_NORMS else None


def _is_widening(layer: Any) -> bool:
    """Whether a layer is a 1×1 convolution to many more channels, and nothing besides."""
    plain = type(layer) in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    if not plain and getattr(type(layer), 'forward', None) is not ConvKind.forward:
        return False
    if not _is_itself(layer):
        return False
    point = all(size == 1 for size in layer.kernel_size) and layer.padding_mode == 'zeros'
    wide = layer.out_channels >= WIDENING * layer.in_channels
    return point and wide


class RemakingHooks:
    """The hooks of a model's layers that tell the pass that runs what it has to know."""

    def __init__(self, model: nn.Module) -> None:
        self._handles = []
        for module in model.modules():
            if isinstance(module, (*CONSUMERS, nn.GroupNorm)):
                self._handles.append(module.register_forward_pre_hook(_before_layer))
            if isinstance(module, nn.modules.conv._ConvNd):
                self._handles.append(module.register_forward_hook(_after_convolution))
            if isinstance(module, NORMS):
                self._handles.append(module.register_forward_hook(_after_norm))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _running() -> RemakingPass | None:
    source = None if is_tracing() else active.source
    return source if isinstance(source, RemakingPass) and torch.is_grad_enabled() else None


@observer
def _before_layer(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    running = _running()
    if running is None or not args or not isinstance(args[0], Tensor):
        return None
    cast = running.before_layer(layer, args[0])
    return None if cast is None else (cast, *args[1:])


@observer
def _after_norm(norm: nn.Module, args: tuple[Any, ...], out: Any) -> None:
    running = _running()
    if running is not None:
        running.after_norm(norm, args, out)


@observer
def _after_convolution(layer: nn.Module, args: tuple[Any, ...], out: Any) -> None:
    running = _running()
    if running is not None:
        running.after_convolution(layer, args, out)
