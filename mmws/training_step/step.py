"""The training step of a model: its weights made together, and values remade instead of kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmws.compat.torch_private import transforms_active
from mmws.layers.source import WeightSource

from .attach import Attached
from .remake import RemakingHooks, RemakingPass
from .together import Plan, WeightPass, is_sharded


class TrainingStep(Attached):
    """Make the weights of a model together in every forward pass with gradients.

    ::

        model = mmws.convert(torchvision.models.resnet50())
        mmws.TrainingStep(model)
        for images, labels in loader:
            loss = criterion(model(images), labels)  # weights are made here, together
            loss.backward()
            ...

    It lasts until :meth:`remove`, and is a context manager, too. Losses and gradients are those of
    layers that make their own weights, up to the order of sums. Layers make their own weights

    - in the first pass, which shows the order of the layers, and in passes without gradients;
    - inside a reentrant activation checkpoint, and in what any checkpoint recomputes;
    - under ``torch.compile``, which makes a better program of all layers itself, and while
      tracing, exporting, and under transforms of ``torch.func``;
    - in models of FSDP, where the weights of other units are elsewhere.

    A pass is a call of ``model`` itself; wrap the model in ``DistributedDataParallel`` as usual.

    With ``remake``, values that are cheap to remake are not kept for the backward pass: made
    weights, the outputs of norms and activations, sums of norms, and the outputs of 1×1
    convolutions to at least twice the channels (:mod:`mmws.training_step.remake`). It pays where
    feature maps take more memory than filters. Losses and gradients stay as they are, up to what
    the library's convolutions vary from call to call. Nothing random is remade, nor what has batch
    statistics; inside an activation checkpoint, which keeps nothing anyway, nothing is remade.

    Args:
        model: The model; what is a part of it may be called in any order, and any number of times.
        together: Make the weights together.
        remake: Remake values instead of keeping them. It pays where activations are large.
        group_mib: MiB of stored weights that one node of the graph makes. By default all, or, where
            several processes train, as much as a bucket of DistributedDataParallel holds, so that
            gradients are communicated during the backward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        together: bool = True,
        remake: bool = False,
        group_mib: float | None = None,
    ) -> None:
        super().__init__(model)
        self._plan = Plan(model, group_mib) if together else None
        self._remaking = RemakingHooks(model) if remake else None
        self._sharded: bool | None = None  # not known before the first pass

    def __getstate__(self) -> dict[str, Any]:
        # What was planned is about the layers of this very model, and is soon planned again.
        plan = self._plan and Plan(self.model, self._plan.group_mib)
        return {**vars(self), '_plan': plan}

    def remove(self) -> None:
        super().remove()
        if self._remaking is not None:
            self._remaking.remove()

    def begin(self, model: nn.Module) -> WeightSource | None:
        if not torch.is_grad_enabled():
            return None
        weights = None if self._plan is None else WeightPass(self._plan)
        if self._remaking is None or transforms_active():
            return weights
        if self._sharded is None:
            self._sharded = is_sharded(model)
        return RemakingPass(weights, self._sharded)

    def end(self, source: WeightSource) -> None:
        weights: WeightSource | None = source
        if isinstance(source, RemakingPass):
            source.close()
            weights = source.weights
        if isinstance(weights, WeightPass) and self._plan is not None:
            weights.close()
            self._plan.learn(weights)
