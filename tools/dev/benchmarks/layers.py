"""Time and memory of layers with Weight Standardization of mmws, MMCV and timm.

    python tools/dev/benchmarks/layers.py --json layers.json

prints a table for ResNet-50 with Group Normalization and one for Mask R-CNN with this backbone.
Each compares the layers (contestants) with the plain convolution:

- ``filters``: the weight functions of all 53 filters, forward and backward. ``floor`` is the time
  for copying the same bytes.
- ``train``: one step, forward and backward. ``eval``: one forward pass without gradients.
- ``saved``: memory that autograd keeps for the backward pass, each storage counted once.
- ``calls``: calls of a training step through PyTorch's dispatcher without views, which is about
  the number of kernels that a GPU would launch. An operator of mmws counts as one call, as it is
  one kernel on a GPU; on the CPU it consists of two to ten operators of PyTorch.

Freed memory stays with the process, as with PyTorch's allocator on a GPU. Without that, page faults
would decide between contestants, and they depend on what was freed before.

Contestants take turns, so that a drift of the machine affects all equally. Times are medians with
quartiles. Ratios to the plain layer are medians of the ratios within a turn.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import mmdet
import torch
import torch.nn.functional as F
from mmcv.cnn import build_conv_layer
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import resnet50

import mmws.layers

CONTESTANTS: dict[str, dict[str, Any]] = {
    'plain': {'type': 'Conv2d'},
    'mmws ConvWS': {'type': 'mmws.ConvWS'},
    'mmws ConvWS, BiT form': {
        'type': 'mmws.ConvWS',
        'eps': 1e-6,
        'variance': 'biased',
        'eps_inside': True,
    },
    'mmws ScaledWS': {'type': 'mmws.ScaledWS'},
    'mmws ConvWN': {'type': 'mmws.ConvWN'},
    'mmcv ConvWS': {'type': 'ConvWS'},
    'timm StdConv2d': {'type': 'TimmStdConv2d'},
    'timm ScaledStdConv2d': {'type': 'TimmScaledStdConv2d'},
}
MASK_RCNN = '.mim/configs/gn+ws/mask-rcnn_r50_fpn_gn-ws-all_2x_coco.py'


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the process; other C libraries are left as they are."""
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_mmap_max, 0)


def register_timm() -> None:
    """Register timm's layers for configs, if timm is installed; drop them otherwise."""
    try:
        from timm.layers import ScaledStdConv2d, StdConv2d
    except ImportError:
        for name in [name for name in CONTESTANTS if name.startswith('timm')]:
            del CONTESTANTS[name]
        return
    MODELS.register_module('TimmStdConv2d', module=StdConv2d)
    MODELS.register_module('TimmScaledStdConv2d', module=ScaledStdConv2d)


def build_resnet(conv_cfg: dict) -> nn.Module:
    """Build ResNet-50 with Group Normalization and the given convolutions."""
    torch.manual_seed(0)
    model = resnet50(norm_layer=functools.partial(nn.GroupNorm, 32))
    for module in list(model.modules()):
        for name, conv in list(module.named_children()):
            if isinstance(conv, nn.Conv2d):
                layer = build_conv_layer(
                    conv_cfg, conv.in_channels, conv.out_channels, conv.kernel_size,
                    stride=conv.stride, padding=conv.padding, bias=False,
                )  # fmt: skip
                layer.load_state_dict(conv.state_dict(), strict=False)
                setattr(module, name, layer)
    return model


def build_mask_rcnn(conv_cfg: dict) -> nn.Module:
    """Build MMDetection's Mask R-CNN with GN in all parts and the given convolutions."""
    torch.manual_seed(0)
    cfg = Config.fromfile(Path(mmdet.__file__).parent / MASK_RCNN).model
    cfg.backbone.init_cfg = None
    heads = (cfg.roi_head.bbox_head, cfg.roi_head.mask_head)
    for part in (cfg.backbone, cfg.neck, *heads):
        part.conv_cfg = conv_cfg
    # Sample as many RoIs as there are proposals, so that the heads of all contestants get the same
    # number.
    cfg.train_cfg.rcnn.sampler.num = 64
    return MODELS.build(cfg)


def resnet_step(size: int) -> Callable[[nn.Module], Tensor]:
    """Return a function that computes the loss of a classification step."""
    torch.manual_seed(1)
    image, label = torch.randn(1, 3, size, size), torch.tensor([7])
    return lambda model: F.cross_entropy(model(image), label)


def mask_rcnn_step(size: int) -> Callable[[nn.Module], Tensor]:
    """Return a function that computes the loss of an instance segmentation step."""
    from mmdet.testing import demo_mm_inputs

    inputs = demo_mm_inputs(1, [(3, size, size)], num_items=[4], num_classes=80, with_mask=True)

    def loss(model: Any) -> Tensor:
        torch.manual_seed(0)  # so that every turn samples the same proposals
        data = model.data_preprocessor(inputs, training=True)
        return model.parse_losses(model(**data, mode='loss'))[0]

    return loss


def clear_gradients(model: nn.Module) -> None:
    """Set all gradients to None, as ``zero_grad`` of an optimizer does."""
    for parameter in model.parameters():
        parameter.grad = None


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions of a model."""
    return [m for m in model.modules() if isinstance(m, nn.Conv2d)]


def effective_weights(layers: list[Any]) -> list[Tensor]:
    """Return the effective weights of layers, computed by the code of their library."""
    if isinstance(layers[0], mmws.layers.WeightFunctionMixin):
        return [layer.effective_weight() for layer in layers]
    with mock.patch('torch.nn.functional.conv2d', lambda input, weight, *args: weight):
        return [layer(layer.weight) for layer in layers]


def turns(
    contestants: Mapping[str, Callable[[], Any]], rounds: int, before: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Time the contestants in turn: medians, quartiles and paired ratios to the first, in ms."""
    names = list(contestants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-1, rounds):  # Turn -1 is a warm-up, whose times are dropped.
        for i in range(len(names)):
            name = names[(i + turn) % len(names)]
            before(name)
            start = time.perf_counter()
            contestants[name]()
            if turn >= 0:
                times[name].append((time.perf_counter() - start) * 1e3)
    reference = times[names[0]]
    result = {}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        ratio = statistics.median(a / b for a, b in zip(values, reference))
        result[name] = {'ms': median, 'low': low, 'high': high, 'ratio': ratio}
    return result


def time_filters(models: dict[str, nn.Module], rounds: int) -> dict[str, dict[str, float]]:
    """Time the weight functions alone, forward and backward, over all filters of the models."""
    layers = {name: convolutions(model) for name, model in models.items() if name != 'plain'}
    weights = [layer.weight.detach() for layer in convolutions(models['plain'])]
    grads = [torch.randn_like(weight) for weight in weights]

    def floor() -> None:
        # Forward reads the stored weight and writes the effective one. Backward reads the gradient
        # and the stored weight and writes a gradient.
        effective = [weight.clone() for weight in weights]
        gradients = [grad + weight for grad, weight in zip(grads, weights)]
        del effective, gradients

    def evaluate(name: str) -> None:
        torch.autograd.backward(effective_weights(layers[name]), grads)

    contestants: dict[str, Callable[[], None]] = {'floor': floor}
    contestants.update({name: functools.partial(evaluate, name) for name in layers})
    return turns(contestants, rounds, lambda name: clear_gradients(models.get(name, nn.Module())))


def time_training(
    models: dict[str, nn.Module], loss: Callable[[nn.Module], Tensor], rounds: int
) -> dict[str, dict[str, float]]:
    """Time forward and backward of the models."""

    def step(model: nn.Module) -> None:
        loss(model.train()).backward()

    contestants = {name: functools.partial(step, model) for name, model in models.items()}
    return turns(contestants, rounds, lambda name: clear_gradients(models[name]))


def time_inference(models: dict[str, nn.Module], size: int, rounds: int) -> dict:
    """Time the forward pass of the models in evaluation."""
    image = torch.randn(1, 3, size, size)

    def infer(model: nn.Module) -> None:
        with torch.no_grad():
            model(image)

    for model in models.values():
        model.eval()
    contestants = {name: functools.partial(infer, model) for name, model in models.items()}
    return turns(contestants, rounds, lambda name: None)


def saved_mib(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> float:
    """Return the memory in MiB that the graph of one step keeps, each storage counted once."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # Hold the graph, so that no address is used twice.
        graph = loss(model.train())
    del graph
    return sum(storages.values()) / 2**20


class CallCounter(TorchDispatchMode):
    """Counts calls of the dispatcher without those that return views."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        returns = func._schema.returns
        self.calls += not any(r.alias_info and not r.alias_info.is_write for r in returns)
        return func(*args, **(kwargs or {}))


def count_calls(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> int:
    """Return the number of calls of one training step."""
    clear_gradients(model)
    with CallCounter() as counter:
        loss(model.train()).backward()
    return counter.calls


def run(args: argparse.Namespace) -> dict[str, dict]:
    """Measure everything: ``{section: {contestant: figures}}``."""
    register_timm()
    chosen = {n: c for n, c in CONTESTANTS.items() if n == 'plain' or args.only in n}
    results: dict[str, dict] = {}
    models = {name: build_resnet(cfg) for name, cfg in chosen.items()}
    step = resnet_step(args.size)
    if 'filters' in args.sections:
        results['R50 filters fwd+bwd'] = time_filters(models, args.rounds)
    if 'saved' in args.sections:
        results['R50 saved'] = {n: {'mib': saved_mib(m, step)} for n, m in models.items()}
    if 'calls' in args.sections:
        small = resnet_step(64)  # The number of calls does not depend on the size.
        results['R50 calls'] = {n: {'calls': count_calls(m, small)} for n, m in models.items()}
    if 'train' in args.sections:
        results['R50 train step'] = time_training(models, step, args.rounds)
    if 'eval' in args.sections:
        results['R50 eval'] = time_inference(models, args.size, args.rounds)
    del models
    if 'mask-rcnn' in args.sections:
        init_default_scope('mmdet')
        models = {name: build_mask_rcnn(cfg) for name, cfg in chosen.items()}
        step = mask_rcnn_step(args.mask_rcnn_size)
        results['Mask R-CNN saved'] = {n: {'mib': saved_mib(m, step)} for n, m in models.items()}
        results['Mask R-CNN train step'] = time_training(models, step, args.mask_rcnn_rounds)
    return results


def print_table(results: dict[str, dict]) -> None:
    """Print the results, a line for each section and contestant."""
    for section, figures in results.items():
        print(f'\n{section}')
        reference = next(iter(figures))
        for name, f in figures.items():
            if 'ms' in f:
                text = f'{f["ms"]:9.1f} ms [{f["low"]:.1f}, {f["high"]:.1f}]  {f["ratio"]:.3f}x'
            elif 'mib' in f:
                text = f'{f["mib"]:9.1f} MiB  {f["mib"] - figures[reference]["mib"]:+.2f}'
            else:
                text = f'{f["calls"]:9d} calls  {f["calls"] - figures[reference]["calls"]:+d}'
            print(f'  {name:24s}{text}')


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = ('filters', 'saved', 'calls', 'train', 'eval', 'mask-rcnn')
    parser.add_argument('--sections', nargs='+', choices=sections, default=sections)
    parser.add_argument('--only', default='', help='only contestants whose name contains this')
    parser.add_argument('--rounds', type=int, default=15, help='turns of every contestant')
    parser.add_argument('--size', type=int, default=512, help='side of the image for ResNet-50')
    parser.add_argument('--mask-rcnn-size', type=int, default=256, help='and for Mask R-CNN')
    parser.add_argument('--mask-rcnn-rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--json', help='also write the figures to this file')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    print(f'PyTorch {torch.__version__}, {args.threads} threads, {platform.processor() or "CPU"}')
    results = run(args)
    print_table(results)
    if args.json:
        with open(args.json, 'w') as file:
            json.dump(results, file, indent=2)


if __name__ == '__main__':
    main()
