"""What structure alone tells about layers that did not run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from torch import nn

from mmws.surgery.libraries import conv_modules, is_normalization


def fed_normalizations(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield pairs of a layer and the normalization that alone takes its output.

    These are neighbours in ``nn.Sequential`` and the two in MMCV's ``ConvModule``.
    """
    for module in model.modules():
        if isinstance(module, conv_modules()):
            block: Any = module
            if block.with_norm and ('conv', 'norm') in pairwise(block.order):
                yield block.conv, block.norm
        elif isinstance(module, nn.Sequential):
            for before, after in pairwise(m for m in module if not isinstance(m, nn.Identity)):
                if is_normalization(after):
                    yield before, after
