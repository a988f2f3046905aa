"""What Weight Normalization costs beside Batch Normalization.

    python -m tools.dev.benchmarks.weight_norm --json weight_norm.json

prints a Markdown table for a stack of linear layers, a stack of convolutions and an LSTM: the time
of a training step, as ratios to the plain layers and of WN to BN, with quartiles; and the memory
that is kept between forward and backward pass. Contestants take turns. An LSTM has no Batch
Normalization to compare with.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
from pathlib import Path

import torch
from torch import Tensor, nn

import mmws
from mmws.layers import WNLSTM, ConvWN2d, LinearWN

from .layers import Figures, compared, keep_freed_memory, memory, take_turns

DEPTH = 8


class LastStep(nn.Module):
    """A recurrent layer that returns the output of the last step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)[0][:, -1]


def linear(layer: type[nn.Module], norm: bool) -> nn.Module:
    """Return linear layers of 512 units, each with a ReLU."""
    parts: list[nn.Module] = []
    for _ in range(DEPTH):
        parts += [layer(512, 512, bias=not norm)]
        parts += [nn.BatchNorm1d(512)] if norm else []
        parts += [nn.ReLU()]
    return nn.Sequential(*parts)


def convolutions(layer: type[nn.Module], norm: bool) -> nn.Module:
    """Return 3×3 convolutions of 64 channels, each with a ReLU."""
    parts: list[nn.Module] = []
    for _ in range(DEPTH):
        parts += [layer(64, 64, 3, padding=1, bias=not norm)]
        parts += [nn.BatchNorm2d(64)] if norm else []
        parts += [nn.ReLU()]
    return nn.Sequential(*parts)


def contests() -> dict[str, tuple[dict[str, nn.Module], Tensor]]:
    """Return the contestants and their inputs by section."""
    found: dict[str, tuple[dict[str, nn.Module], Tensor]] = {}
    for build, plain, normalized, inputs in (
        (convolutions, nn.Conv2d, ConvWN2d, ((1, 64, 56, 56), (16, 64, 56, 56))),
        (linear, nn.Linear, LinearWN, ((16, 512), (128, 512))),
    ):
        for shape in inputs:
            models = {
                'plain': build(plain, False),
                'BN': build(plain, True),
                'WN': build(normalized, False),
            }
            section = f'{build.__name__}, {" × ".join(map(str, shape))}'
            found[section] = models, torch.randn(*shape)
    lstms: dict[str, nn.Module] = {
        'plain': LastStep(nn.LSTM(64, 128, batch_first=True)),
        'WN': LastStep(WNLSTM(64, 128, batch_first=True)),
    }
    found['LSTM of 128 units, 16 × 32 steps × 64'] = lstms, torch.randn(16, 32, 64)
    return found


def measure(models: dict[str, nn.Module], inputs: Tensor, rounds: int) -> Figures:
    """Return time and memory of a step of each model."""
    for name, model in models.items():
        if name.startswith('WN'):
            mmws.TrainingStep(model)

    def loss(model: nn.Module) -> Tensor:
        return model(inputs).square().mean()

    losses = {name: functools.partial(loss, model) for name, model in models.items()}
    times = take_turns(losses, models, rounds, 'cpu')
    figures = compared(times, 'plain')
    if 'BN' in models:
        to_bn = compared(times, 'BN')['WN']
        figures['WN'] |= {f'{key} to BN': to_bn[key] for key in ('ratio', 'low', 'high')}
    for name, model in models.items():
        figures[name]['kept MiB'] = memory(model, losses[name])['kept MiB']
    return figures


def print_markdown(results: dict[str, Figures]) -> None:
    """Print the table: a line for each section."""
    print('| | plain, ms | BN | WN | WN : BN | plain, kept MiB | BN | WN |')
    print('| --- |' + ' ---: |' * 7)
    for section, figures in results.items():
        plain, wn = figures['plain'], figures['WN']
        bn = figures.get('BN', {})
        cells = [f'{plain["ms"]:.2f}', _ratio(bn), _ratio(wn), _ratio(wn, ' to BN')]
        cells += [f'{plain["kept MiB"]:.1f}']
        cells += [f'{f["kept MiB"] / plain["kept MiB"]:.2f}' if f else '–' for f in (bn, wn)]
        print(f'| {section} | ' + ' | '.join(cells) + ' |')


def _ratio(figures: dict[str, float], to: str = '') -> str:
    if f'ratio{to}' not in figures:
        return '–'
    low, ratio, high = (figures[f'{key}{to}'] for key in ('low', 'ratio', 'high'))
    return f'{ratio:.2f} [{low:.2f}, {high:.2f}]'


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=40, help='turns of every contestant')
    parser.add_argument('--only', default='', metavar='TEXT', help='sections with this in the name')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--json', type=Path, help='also write the figures to this file')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    print(
        f'PyTorch {torch.__version__}, {torch.get_num_threads()} threads, '
        f'{platform.processor() or "CPU"}\n'
    )
    results = {
        section: measure(models, inputs, args.rounds)
        for section, (models, inputs) in contests().items()
        if args.only in section
    }
    print_markdown(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
