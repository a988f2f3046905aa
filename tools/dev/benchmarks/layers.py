"""What Weight Standardization costs: mmws, MMCV and timm against plain convolutions.

    python tools/dev/benchmarks/layers.py --json layers.json
    python tools/dev/benchmarks/layers.py --device cuda --json layers.json

prints a table for ResNet-50 with Group Normalization, forward and backward at one image:

- ``host``: 8 base channels at 1×3×32×32 on one thread, so that nearly all time goes to the host;
  ``host-bf16`` the same under autocast; ``host-eval`` without gradients;
- ``train``, ``eval``: 64 base channels at 1×3×512×512;
- ``retina``: a head whose convolutions run on five levels of a pyramid;
- ``saved``: what is alive between forward and backward pass, and at the peak of a step;
- ``calls``: operators of PyTorch that run in a step, views aside;
- ``mask-rcnn``: Mask R-CNN of MMDetection, plain, with ``with_cp``, and remaking;
- ``cuda``: on a GPU, step time in float32 and bfloat16, launches, allocated bytes, CUDA graphs.

Contestants are ``plain``, ``mmws alone`` (each layer makes its weight), ``mmws together``
(:class:`mmws.TrainingStep`; in evaluation :func:`mmws.hold_weights`), ``mmws remade`` (the same
with ``remake=True``), and timm's and MMCV's layers where installed. They take turns, so that drift
of the machine hits all alike; times are medians with quartiles, ratios those within a turn. Freed
memory stays with the process: otherwise page faults would decide between contestants.
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
from contextlib import nullcontext
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

import mmws
from mmws.kernels import aten, operators
from mmws.layers import ConvWN2d, ConvWS2d
from mmws.training_step.live_memory import LiveMemory

Loss = Callable[[], Tensor]
Figures = dict[str, dict[str, float]]
MASK_RCNN = '.mim/configs/gn+ws/mask-rcnn_r50_fpn_gn-ws-all_2x_coco.py'


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, where the C library is glibc."""
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_mmap_max, 0)


def contestants() -> dict[str, type[nn.Module]]:
    """Return the convolution of each contestant."""
    found: dict[str, type[nn.Module]] = {
        'plain': nn.Conv2d,
        'mmws alone': ConvWS2d,
        'mmws together': ConvWS2d,
        'mmws remade': ConvWS2d,
        'mmws WN together': ConvWN2d,
    }
    try:
        from timm.layers import StdConv2d

        found['timm'] = StdConv2d
    except ImportError:
        pass
    try:
        from mmcv.cnn.bricks.conv_ws import ConvWS2d as MMCVConvWS2d

        found['mmcv'] = MMCVConvWS2d
    except ImportError:
        pass
    return found


def build_resnet(conv: type[nn.Module], base: int) -> nn.Module:
    """Build ResNet-50 with Group Normalization, the given convolutions and base channels."""
    torch.manual_seed(0)
    shrink = 64 // base
    norm = functools.partial(nn.GroupNorm, 32)
    model = ResNet(Bottleneck, [3, 4, 6, 3], norm_layer=norm)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            new = None
            if isinstance(child, nn.Conv2d):
                inputs = 3 if child.in_channels == 3 else child.in_channels // shrink
                new = conv(
                    inputs, child.out_channels // shrink, child.kernel_size,
                    stride=child.stride, padding=child.padding, bias=False,
                )  # fmt: skip
            elif isinstance(child, nn.GroupNorm):
                new = nn.GroupNorm(32 if base == 64 else 4, child.num_channels // shrink)
            elif isinstance(child, nn.Linear):
                new = nn.Linear(child.in_features // shrink, child.out_features)
            if new is not None:
                setattr(module, name, new)
    return model


class RetinaHead(nn.Module):
    """The convolutions of RetinaNet's head with GN, on five levels."""

    def __init__(self, conv: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.towers = nn.ModuleList(
            nn.Sequential(
                *(
                    layer
                    for _ in range(4)
                    for layer in (conv(256, 256, 3, padding=1), nn.GroupNorm(32, 256), nn.ReLU())
                )
            )
            for _ in range(2)
        )

    def forward(self, levels: list[Tensor]) -> Tensor:
        return sum(tower(x).mean() for x in levels for tower in self.towers)


def attach(name: str, model: nn.Module) -> nn.Module:
    """Let the contestants of mmws do what their names say."""
    if name.endswith('together') or name.endswith('remade'):
        mmws.TrainingStep(model, remake=name.endswith('remade'))
        mmws.hold_weights(model)
    return model


def resnets(base: int, device: str) -> dict[str, nn.Module]:
    """Build the models of all contestants."""
    return {n: attach(n, build_resnet(c, base)).to(device) for n, c in contestants().items()}


def classification(model: nn.Module, size: int, device: str, amp: bool = False) -> Loss:
    """Return a function that computes the loss of a classification step."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, size, size, generator=generator).to(device)
    label = torch.tensor([7], device=device)

    def loss() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            return F.cross_entropy(model(image), label)

    return loss


def turns(
    losses: Mapping[str, Callable[[], object]],
    models: Mapping[str, nn.Module],
    rounds: int,
    device: str,
) -> Figures:
    """Time the contestants in turn: medians, quartiles and paired ratios to the first, in ms."""
    return compared(take_turns(losses, models, rounds, device), next(iter(losses)))


def take_turns(
    losses: Mapping[str, Callable[[], object]],
    models: Mapping[str, nn.Module],
    rounds: int,
    device: str,
) -> dict[str, list[float]]:
    """Return the duration of each turn of each contestant, in ms."""
    names = list(losses)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-2, rounds):  # the first pass of TrainingStep watches, the second warms up
        for i in range(len(names)):
            name = names[(i + turn) % len(names)]
            models[name].zero_grad(set_to_none=True)
            synchronize(device)
            start = time.perf_counter()
            result = losses[name]()
            if isinstance(result, Tensor) and result.requires_grad:
                result.backward()
            del result
            synchronize(device)
            if turn >= 0:
                times[name].append((time.perf_counter() - start) * 1e3)
            models[name].zero_grad(set_to_none=True)
    return times


def compared(times: Mapping[str, list[float]], base: str) -> Figures:
    """Return medians in ms, and medians and quartiles of the ratios to ``base`` within a turn."""
    figures = {}
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times[base])]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        figures[name] = {
            'ms': statistics.median(values), 'ratio': ratio, 'low': low, 'high': high,
            'of minima': min(values) / min(times[base]),
        }  # fmt: skip
    return figures


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device == 'cuda':
        torch.cuda.synchronize()


def memory(model: nn.Module, loss: Loss) -> dict[str, float]:
    """Return MiB alive between forward and backward, and at the peak of a step without optimizer.

    Gradients are part of the peak; weights are not counted.
    """
    loss().backward()  # the first pass of TrainingStep watches
    model.zero_grad(set_to_none=True)
    with LiveMemory() as meter:
        value = loss()
        kept = meter.live()
        value.backward()
    model.zero_grad(set_to_none=True)
    return {'kept MiB': kept / 2**20, 'peak MiB': meter.peak / 2**20}


def count_calls(model: nn.Module, loss: Loss) -> dict[str, float]:
    """Return the number of operators that run in one training step, views aside."""
    loss().backward()
    model.zero_grad(set_to_none=True)
    # A dispatch mode, such as the meter, would see an operator of mmws instead of its parts, have
    # constants made anew, and see lists of views below autograd as one operator that is no view.
    with (
        LiveMemory() as meter,
        mock.patch.object(operators, 'dispatch_mode_active', bool),
        mock.patch.object(aten, 'dispatch_mode_active', bool),
        mock.patch.object(operators, 'below_autograd', nullcontext),
    ):
        loss().backward()
    return {'calls': meter.calls}


def evaluation(model: nn.Module, size: int, device: str) -> Callable[[], object]:
    """Return a function that runs a model without gradients."""
    image = torch.randn(1, 3, size, size, device=device)

    def run() -> None:
        with torch.no_grad():
            model(image)

    return run


def measure_mask_rcnn(args: argparse.Namespace) -> dict[str, Figures]:
    """Measure MMDetection's Mask R-CNN with GN and WS in all parts."""
    from pathlib import Path

    import mmdet
    from mmdet.testing import demo_mm_inputs
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmdet')
    height, width = args.mask_rcnn_size

    def build(conv: str, with_cp: bool) -> nn.Module:
        torch.manual_seed(0)
        cfg = Config.fromfile(Path(mmdet.__file__).parent / MASK_RCNN).model
        cfg.backbone.init_cfg = None
        cfg.backbone.with_cp = with_cp
        for part in (cfg.backbone, cfg.neck, cfg.roi_head.bbox_head, cfg.roi_head.mask_head):
            part.conv_cfg = dict(type=conv)
        # As many proposals as boxes are sampled, so that the heads of all contestants see as many.
        cfg.train_cfg.rcnn.sampler.num = 64
        return MODELS.build(cfg).to(args.device)

    def loss_of(model: Any, amp: bool = False) -> Loss:
        shape = [(3, height, width)]
        inputs = demo_mm_inputs(1, shape, num_items=[4], num_classes=80, with_mask=True)

        def loss() -> Tensor:
            torch.manual_seed(0)  # the same proposals are sampled in every turn
            data = model.data_preprocessor(inputs, training=True)
            with torch.autocast(args.device, torch.bfloat16, enabled=amp):
                return model.parse_losses(model(**data, mode='loss'))[0]

        return loss

    models = {
        'plain': build('Conv2d', False),
        'mmcv': build('ConvWS', False),
        'mmws together': build('mmws.ConvWS', False),
        'mmws remade': build('mmws.ConvWS', False),
        'mmws together, with_cp': build('mmws.ConvWS', True),
        'mmws remade, with_cp': build('mmws.ConvWS', True),
    }
    for name, model in models.items():
        if name.startswith('mmws'):
            mmws.TrainingStep(model, remake='remade' in name)
    losses = {name: loss_of(model) for name, model in models.items()}
    title = f'Mask R-CNN {height}x{width}'
    results = {f'{title} memory': {n: memory(models[n], losses[n]) for n in models}}
    if args.mask_rcnn_rounds:
        results[f'{title} step'] = turns(losses, models, args.mask_rcnn_rounds, args.device)
    if args.mask_rcnn_rounds and args.device == 'cuda':
        half = {name: loss_of(model, amp=True) for name, model in models.items()}
        results[f'{title} step, bf16'] = turns(half, models, args.mask_rcnn_rounds, 'cuda')
    return results


def measure_cuda(args: argparse.Namespace) -> dict[str, Figures]:
    """Measure ResNet-50 at 1×3×800×1344 on a GPU: time, launches, memory and CUDA graphs."""
    card = torch.cuda.get_device_name()
    models = resnets(64, 'cuda')
    results: dict[str, Figures] = {}
    for precision in ('float32', 'bfloat16'):
        image = torch.randn(1, 3, 800, 1344, device='cuda')
        label = torch.tensor([7], device='cuda')

        def loss_of(
            model: Callable[[Tensor], Tensor],
            amp: bool,
            image: Tensor = image,
            label: Tensor = label,
        ) -> Tensor:
            with torch.autocast('cuda', torch.bfloat16, enabled=amp):
                return F.cross_entropy(model(image), label)

        amp = precision == 'bfloat16'
        losses = {n: functools.partial(loss_of, m, amp) for n, m in models.items()}
        figures = turns(losses, models, args.rounds, 'cuda')
        for name, model in models.items():
            figures[name] |= launches_and_memory(model, losses[name])
        for name in ('plain', 'mmws alone'):
            compiled = torch.compile(models[name], mode='reduce-overhead')
            graphs = {name: functools.partial(loss_of, compiled, amp)}
            figures[name]['graph ms'] = turns(graphs, models, args.rounds, 'cuda')[name]['ms']
        results[f'R50 1x3x800x1344, {precision}, {card}'] = figures
    return results


def launches_and_memory(model: nn.Module, loss: Loss) -> dict[str, float]:
    """Return the kernels that a step launches on a GPU, and the MiB allocated at its peak."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss().backward()
    peak = torch.cuda.max_memory_allocated() - before
    model.zero_grad(set_to_none=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        loss().backward()
        torch.cuda.synchronize()
    model.zero_grad(set_to_none=True)
    others = ('Memcpy', 'Memset', 'cuda', 'Activity')
    kernels = [e for e in profile.events() if not e.name.startswith(others)]
    return {'launches': len(kernels), 'peak MiB': peak / 2**20}


def run(args: argparse.Namespace) -> dict[str, Figures]:
    """Measure everything: ``{section: {contestant: figures}}``."""
    device, sections = args.device, args.sections
    results: dict[str, Figures] = {}
    if any(section.startswith('host') or section == 'calls' for section in sections):
        models = resnets(8, device)
        losses = {n: classification(m, 32, device) for n, m in models.items()}
        if 'calls' in sections:
            results['R50 calls'] = {n: count_calls(m, losses[n]) for n, m in models.items()}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        if 'host' in sections:
            results['host-bound step'] = turns(losses, models, args.host_rounds, device)
        if 'host-bf16' in sections:
            half = {n: classification(m, 32, device, amp=True) for n, m in models.items()}
            results['host-bound step, bf16'] = turns(half, models, args.host_rounds, device)
        if 'host-eval' in sections:
            runs = {n: evaluation(m.eval(), 32, device) for n, m in models.items()}
            results['host-bound evaluation'] = turns(runs, models, args.host_rounds, device)
        torch.set_num_threads(threads)
    if {'train', 'eval', 'saved'} & {*sections}:
        models = resnets(64, device)
        losses = {n: classification(m, args.size, device) for n, m in models.items()}
        if 'saved' in sections:
            results['R50 memory'] = {n: memory(m, losses[n]) for n, m in models.items()}
        if 'train' in sections:
            results[f'R50 {args.size} step'] = turns(losses, models, args.rounds, device)
        if 'eval' in sections:
            runs = {n: evaluation(m.eval(), args.size, device) for n, m in models.items()}
            results[f'R50 {args.size} evaluation'] = turns(runs, models, args.rounds, device)
        del models, losses
    if 'retina' in sections:
        models = {n: attach(n, RetinaHead(c)).to(device) for n, c in contestants().items()}
        levels = [torch.randn(1, 256, s, s, device=device) for s in (64, 32, 16, 8, 4)]
        losses = {n: functools.partial(m, levels) for n, m in models.items()}
        results['RetinaNet head'] = turns(losses, models, args.rounds, device)
    if 'mask-rcnn' in sections:
        results |= measure_mask_rcnn(args)
    if 'cuda' in sections and device == 'cuda':
        results |= measure_cuda(args)
    return results


def print_table(results: dict[str, Figures]) -> None:
    """Print the results, a line for each section and contestant."""
    for section, figures in results.items():
        print(f'\n{section}')
        for name, values in figures.items():
            print(
                f'  {name:24s}' + '  '.join(f'{key} {value:.3f}' for key, value in values.items())
            )


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    host = ('host', 'host-bf16', 'host-eval', 'calls')
    sections = (*host, 'train', 'eval', 'retina', 'saved', 'cuda')
    parser.add_argument('--sections', nargs='+', choices=(*sections, 'mask-rcnn'), default=sections)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--rounds', type=int, default=15, help='turns of every contestant')
    parser.add_argument('--host-rounds', type=int, default=60, help='and in the host-bound regime')
    parser.add_argument('--size', type=int, default=512, help='side of the image for ResNet-50')
    parser.add_argument('--mask-rcnn-size', type=int, nargs=2, default=(512, 672))
    parser.add_argument('--mask-rcnn-rounds', type=int, default=5, help='0: memory alone')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--json', help='also write the figures to this file')
    args = parser.parse_args()
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch finds no GPU here')
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
