"""How much memory a training of a config needs, and how many images fit a GPU."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any, NamedTuple

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from mmws.testing.trial import tiny_batch
from mmws.training_step import TrainingStep
from mmws.training_step.live_memory import LiveMemory

MIB = 2**20
CARDS_GB = (8, 12, 16, 24)
CONTEXT_MIB = 1200
"""What CUDA, cuDNN and their workspaces take beside tensors, at a guess."""
FRAGMENTATION = 1.1
"""What an allocator holds beside what is in use, at a guess."""


class Activations(NamedTuple):
    """Bytes for one image."""

    kept: int
    """Alive between forward and backward pass."""
    peak: int
    """Alive at the peak of a step, without gradients of weights."""


class MemoryReport(NamedTuple):
    """Bytes, by component."""

    weights: int
    gradients: int
    optimizer: int
    activations: dict[str, Activations]
    """By what is switched on: ``'as configured'``, ``'remake'``, ``'with_cp'``, both."""

    def images(self, switches: str, card_gb: float) -> int:
        """Return how many images a GPU of ``card_gb`` GB holds, estimated; 0 for none."""
        fixed = self.weights + self.gradients + self.optimizer
        room = (card_gb * 1e9 / MIB - CONTEXT_MIB) * MIB / FRAGMENTATION - fixed
        return max(math.floor(room / self.activations[switches].peak), 0)

    def __str__(self) -> str:
        fixed = (
            f'weights {self.weights / MIB:.0f} MiB, gradients {self.gradients / MIB:.0f} MiB, '
            f'optimizer {self.optimizer / MIB:.0f} MiB'
        )
        cards = ''.join(f'{f"{card} GB":>8}' for card in CARDS_GB)
        lines = [fixed, '', f'{"MiB for each image":24}{"kept":>8}{"peak":>8}  images on{cards}']
        for switches, (kept, peak) in self.activations.items():
            counts = ''.join(f'{self.images(switches, card):8d}' for card in CARDS_GB)
            lines.append(f'{switches:24}{kept / MIB:8.0f}{peak / MIB:8.0f}           {counts}')
        return '\n'.join(lines)


def measure_memory(cfg: Config, height: int, width: int, amp: bool = False) -> MemoryReport:
    """Run training steps of a config's model on the CPU and count what they keep.

    Two square images of the given number of pixels are trained on, with random weights. What
    PyTorch makes on the CPU is counted, so that the figures do not depend on a GPU; a GPU's own
    workspaces, and what its allocator does not use, are guessed (:data:`CONTEXT_MIB`,
    :data:`FRAGMENTATION`), so that counts of images may be off by a tenth.

    Args:
        cfg: A config of MMDetection.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        amp: Compute under autocast in bfloat16.

    Raises:
        ValueError: if the image has no pixels.
    """
    if height < 1 or width < 1:
        raise ValueError(f'size must be positive, got {height} x {width}')
    size = max(32 * round(math.sqrt(height * width) / 32), 32)
    results = {}
    for switches in ('as configured', 'remake', 'with_cp', 'remake, with_cp'):
        model = _build(cfg, 'with_cp' in switches)
        if model is None:
            continue
        results[switches] = _activations(model, cfg, size, 'remake' in switches, amp)
    model = _build(cfg, with_cp=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    return MemoryReport(
        weights=sum(t.nbytes for t in (*model.parameters(), *model.buffers())),
        gradients=sum(p.nbytes for p in trained),
        optimizer=_optimizer_bytes(model, cfg),
        activations=results,
    )


def _build(cfg: Config, with_cp: bool) -> Any:
    """Build the model with random weights; None if its backbone has no ``with_cp``."""
    model_cfg = copy.deepcopy(cfg.model)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmdet'):
        if with_cp:
            backbone = model_cfg.get('backbone')
            cls = None if backbone is None else MODELS.get(backbone['type'])
            if cls is None or 'with_cp' not in inspect.signature(cls).parameters:
                return None
            backbone['with_cp'] = True
        return MODELS.build(model_cfg)


def _activations(model: Any, cfg: Config, size: int, remake: bool, amp: bool) -> Activations:
    model.train()
    batch = tiny_batch(cfg.model, size, training=True)

    def loss() -> torch.Tensor:
        torch.manual_seed(0)
        data = model.data_preprocessor(batch, True)
        with torch.autocast('cpu', torch.bfloat16, enabled=amp):
            return model.parse_losses(model(**data, mode='loss'))[0]

    with TrainingStep(model, remake=remake):
        loss()  # the first pass only watches in which order layers run
        with LiveMemory() as memory:
            value = loss()
            kept = memory.live()
            value.backward()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    images = len(batch['inputs'])
    return Activations(kept // images, max(memory.peak - gradients, kept) // images)


def _optimizer_bytes(model: nn.Module, cfg: Config) -> int:
    """Return the bytes of an optimizer's state after a step."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    optimizer.step()
    tensors = (t for state in optimizer.state.values() for t in state.values())
    return sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))
