"""Data-dependent initialisation of layers with Weight Normalization."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .weight_norm import WeightNormalization


class WeightNormInitReport(NamedTuple):
    """What :func:`init_weight_norm` did; layers by their names in the model."""

    initialized: list[str]
    """In the order in which they were executed."""
    without_bias: list[str]
    """Those of them that could be scaled only: their mean is not 0."""
    dead_channels: dict[str, list[int]]
    """Output channels of theirs that do not vary over the batch; left as they were."""
    not_executed: list[str]
    """Layers that the batch did not reach; left as they were."""


@torch.no_grad()
def init_weight_norm(
    model: nn.Module,
    batch: Any,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    keep: Collection[str] = (),
) -> WeightNormInitReport:
    r"""Let every layer with Weight Normalization put out zero mean and unit variance on a batch.

    Of each output channel of a layer, over batch and positions,

    .. math::
        t = \frac{v \cdot x}{\lVert v \rVert}, \qquad
        g \leftarrow \frac{1}{\sigma[t]}, \qquad
        b \leftarrow \frac{-\mu[t]}{\sigma[t]}

    (`arXiv 1602.07868 <https://arxiv.org/abs/1602.07868>`_, section 3), with :math:`\sigma^2` the
    mean of squared deviations, as in batch normalization. The batch goes through the model once;
    each layer is initialised when it is reached, on what its initialised predecessors put out.

    A layer that is executed several times, such as a head shared by the levels of a feature
    pyramid, is initialised by its first non-empty input: later inputs come of what the first has
    already gone through. In MMDetection that is the finest level, which has three quarters of all
    positions.

    In distributed training, every process calls this with its own part of the batch; moments are
    those of all parts, and all processes end with the same parameters, provided that they began
    so and execute the same layers.

    Changes the parameters :math:`g` and :math:`b` of those layers. Buffers, such as running
    statistics, gradients, modes, and random states are as before.

    Args:
        model: In training or evaluation mode, and executed in it.
        batch: What the model takes; a tuple or a list is its positional arguments, a dict its
            keyword arguments.
        forward: Runs the model: ``forward(model, batch)``. Default: call the model.
        keep: Names of modules to leave as they are, with all that is in them, because they are
            trained already: ``['backbone']``. Layers whose :math:`g` is frozen are left, too.

    Returns:
        The layers initialised, and where the outputs are not as promised.
    """
    layers = {
        module: name
        for name, module in model.named_modules()
        if isinstance(module, WeightNormalization)
        and module.weight_g.requires_grad
        and not any(_is_within(name, kept) for kept in keep)
    }
    report = WeightNormInitReport([], [], {}, [])

    def initialize(layer: Any, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
        name = layers[layer]
        if name in report.initialized:
            return output
        dead = _init_layer(layer, args, kwargs)
        if dead is None:
            return output
        report.initialized.append(name)
        if getattr(layer, 'bias', None) is None:
            report.without_bias.append(name)
        if dead:
            report.dead_channels[name] = dead
        return layer.forward(*args, **kwargs)

    if not layers:
        return report
    handles = [layer.register_forward_hook(initialize, with_kwargs=True) for layer in layers]
    try:
        with _side_effects_undone(model):
            (forward or _call)(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    report.not_executed.extend(n for n in layers.values() if n not in report.initialized)
    return report


def _is_within(name: str, module: str) -> bool:
    return not module or name == module or name.startswith(f'{module}.')


def _call(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, dict):
        return model(**batch)
    if isinstance(batch, (tuple, list)):
        return model(*batch)
    return model(batch)


def _init_layer(layer: Any, args: tuple, kwargs: dict) -> list[int] | None:
    """Set g and b of one layer; return its dead channels, or None where the input is empty."""
    g, bias = layer.weight_g, getattr(layer, 'bias', None)  # some of MMCV's have none
    old_g = g.clone()
    old_bias = None if bias is None else bias.clone()
    g.fill_(1)
    if bias is not None:
        bias.zero_()
    t = layer.forward(*args, **kwargs)
    # (N, O, *) from convolutions, (*, O) from linear layers; convolutions take one image, too.
    channels_first = t.movedim(t.dim() - layer.weight.dim() + 1, 0)
    count, mean, std = _moments(channels_first.reshape(g.numel(), -1))

    # A channel that varies by no more than rounding would be scaled to a channel of noise.
    alive = (std > torch.finfo(t.dtype).eps * mean.abs()) & (std > torch.finfo(g.dtype).tiny)
    alive &= std.isfinite()
    g.copy_(torch.where(alive, (1 / std).to(g), old_g.flatten()).view_as(g))
    if bias is not None and old_bias is not None:
        bias.copy_(torch.where(alive, (-mean / std).to(bias), old_bias))
    return None if count == 0 else (~alive).nonzero().flatten().tolist()


def _moments(t: Tensor) -> tuple[float, Tensor, Tensor]:
    """Return count, mean (O) and standard deviation (O) of t (O, n) over all processes, float64.

    In two passes, of which the second centres: a difference of mean squares loses all its digits
    where the mean is large.
    """
    count = t.new_tensor([t.shape[1]], dtype=torch.float64)
    total = torch.cat([count, t.sum(1, dtype=torch.float64)])
    _add_up(total)
    count, mean = total[0], total[1:] / total[0]
    squares = (t.double() - mean[:, None]).square().sum(1)
    _add_up(squares)
    return count.item(), mean, (squares / count).sqrt()


def _add_up(tensor: Tensor) -> None:
    """Replace a tensor by its sum over all processes; without a process group it stays."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)


@contextmanager
def _side_effects_undone(model: nn.Module) -> Iterator[None]:
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
