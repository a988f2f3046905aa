"""Effective weights of all layers made together, for one forward pass of a model.

A layer alone makes its weight by a node of its own. At one or two images a step is bound by the
time between the launches of kernels, so here the weights of many layers are made by one node.

The first pass only watches: it notes in which order layers run, and which of them run without
gradients although the pass has gradients. Those are inside a reentrant activation checkpoint
(MMDetection's ``with_cp``): their gradients arrive by another way than that of a group, and
DistributedDataParallel would see them twice. From the next pass on, consecutive layers form
groups, and a group is made when the first of its layers runs: nodes made later in the forward pass
run earlier in the backward pass, so that gradients of late layers are ready for communication
while the backward pass goes on.

Made weights belong to the pass, not to the model: they are dropped when the forward pass ends, even
by an exception. What is recomputed in the backward pass makes its own weights.
"""

from __future__ import annotations

import sys
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmws.compat.torch_private import autocast_dtype, backward_running, transforms_active
from mmws.functional import Stored, apply_together, closed_form_applies
from mmws.layers import WeightFunctionMixin

from .hooked import has_pre_hooks

# A weight, the half precision that it has, the device whose autocast counts, what it was made from,
# and how often that was changed before. No weight: the layer makes its own in this pass.
_Made = tuple[Tensor | None, torch.dtype | None, str | None, Stored | tuple[()], int]

BUCKET_MIB = 25.0
"""Stored weights of a group under DistributedDataParallel, whose default bucket is as large."""


class Plan:
    """Which layers of a model have their weights made together, as its passes have shown.

    Args:
        model: The model whose passes count.
        group_mib: MiB of stored weights in a group. None: one group, or groups of
            :data:`BUCKET_MIB` where several processes train.
    """

    def __init__(self, model: nn.Module, group_mib: float | None = None) -> None:
        self.model = model
        self.group_mib = group_mib
        self.groups: dict[WeightFunctionMixin, list[WeightFunctionMixin]] = {}
        self.alone: set[WeightFunctionMixin] = set()

    def learn(self, finished: WeightPass) -> None:
        """Form groups anew if the pass met layers of which nothing was known."""
        without_grad = finished.without_grad - self.alone
        if not finished.unknown and not without_grad:
            return
        order: list[WeightFunctionMixin] = [*self.groups, *finished.unknown]
        self.alone |= without_grad
        if is_sharded(self.model):  # the weights of one unit exist while others are elsewhere
            self.alone.update(order)
        limit = self.group_mib
        if limit is None and dist.is_available() and dist.is_initialized():
            limit = BUCKET_MIB if dist.get_world_size() > 1 else None
        self.groups = {}
        group: list[WeightFunctionMixin] = []
        size = 0.0
        for layer in order:
            if layer in self.alone:
                continue
            mib = layer.weight.nbytes / 2**20
            if limit is not None and group and size + mib > limit:
                group, size = [], 0.0
            size += mib
            group.append(layer)
            self.groups[layer] = group


class WeightPass:
    """One forward pass with gradients: the weights made in it, and what it learnt about layers."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._made: dict[WeightFunctionMixin, _Made] = {}
        self.unknown: dict[WeightFunctionMixin, None] = {}  # in order of execution
        self.without_grad: set[WeightFunctionMixin] = set()

    def weight_of(self, layer: WeightFunctionMixin) -> Tensor | None:
        """Return the layer's weight, None if the layer shall make its own."""
        if not torch.is_grad_enabled():
            self.without_grad.add(layer)
            return None
        if transforms_active() or backward_running():
            return None
        made = self._made.get(layer)
        if made is None:
            if not self._make_group(layer):
                return None
            made = self._made[layer]
        weight, half, device, stored, changes = made
        if half is not None and half is not autocast_dtype(device):
            return None  # autocast has changed since the group was made
        # The stored tensors may have changed, too: a model may clamp a weight before its layer.
        now = stored[0]._version if len(stored) == 1 else _changes(stored)
        return weight if now == changes else None

    def close(self) -> None:
        """Drop the made weights, whoever still holds the pass."""
        self._made.clear()

    def _make_group(self, layer: WeightFunctionMixin) -> bool:
        if has_pre_hooks(layer):
            return False  # they may write its weight, which others ask for before
        group = self._plan.groups.get(layer)
        if group is None:
            if layer not in self._plan.alone:
                self.unknown[layer] = None
            return False
        if any(member._forward_pre_hooks for member in group):
            group = [member for member in group if not has_pre_hooks(member)]
        stored = [member.stored_weights() for member in group]
        if not closed_form_applies(*chain.from_iterable(stored)):
            self._made.update(dict.fromkeys(group, (None, None, None, (), 0)))
            return True
        functions = [member.stored_function() for member in group]
        devices = {tensors[0].device.type for tensors in stored}
        autocast = {device: autocast_dtype(device) for device in devices}
        followed: list[str | None] = [None] * len(group)
        if any(autocast.values()):
            followed = [*map(autocast_device, group, stored)]
        dtypes = [None if kind is None else autocast[kind] for kind in followed]
        weights = apply_together(functions, stored, dtypes)
        changes = [ts[0]._version if len(ts) == 1 else _changes(ts) for ts in stored]
        self._made.update(zip(group, zip(weights, dtypes, followed, stored, changes)))
        return True


def _changes(stored: Stored | tuple[()]) -> int:
    """Return how often any of the stored tensors was changed in place."""
    return sum(t._version for t in stored if t is not None)


def autocast_device(layer: WeightFunctionMixin, stored: Stored) -> str | None:
    """Return the type of the device whose autocast a layer follows, None if it follows none.

    Args:
        layer: The layer.
        stored: What it stores.
    """
    weight = stored[0]
    if weight.dtype is not torch.float32 or not layer.half_precision:
        return None
    return weight.device.type


def is_sharded(model: nn.Module) -> bool:
    """Whether a part of the model is a unit of FSDP, of either version."""
    fsdp = sys.modules.get('torch.distributed.fsdp')
    names = ('FullyShardedDataParallel', 'FSDPModule')
    kinds = tuple(getattr(fsdp, name) for name in names if hasattr(fsdp, name))
    return bool(kinds) and any(isinstance(module, kinds) for module in model.modules())
