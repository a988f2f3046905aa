"""Every layer that computes with a function of its weight, beside its plain counterpart."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from mmws import layers
from mmws.layers.deform import DeformConv2dPack, ModulatedDeformConv2dPack  # MMCV's


class Case(NamedTuple):
    """A layer, what it is made from, and what it is called with."""

    layer: type[nn.Module]
    plain: type[nn.Module]
    options: dict[str, Any]
    input_shapes: tuple[tuple[int, ...], ...]
    twice: bool = True  # whether PyTorch can differentiate the plain layer twice

    def make(self, **kwargs: Any) -> nn.Module:
        torch.manual_seed(0)
        return self._moved(self.layer(4, 6, **self.options), **kwargs)

    def make_plain(self, **kwargs: Any) -> nn.Module:
        torch.manual_seed(0)
        return self._moved(self.plain(4, 6, **self.options), **kwargs)

    def inputs(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(1)
        return tuple(
            torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            for shape in self.input_shapes
        )

    def _moved(self, layer: nn.Module, **kwargs: Any) -> nn.Module:
        if hasattr(layer, 'conv_offset'):  # zeros otherwise, and then an ordinary convolution
            nn.init.normal_(layer.conv_offset.weight, std=0.1)
            nn.init.normal_(layer.conv_offset.bias, std=0.1)
        return layer.to(**kwargs)


def plain_twin(case: Case, layer: nn.Module) -> nn.Module:
    """Return the plain layer that holds the weight which ``layer`` computes with."""
    twin = case.make_plain(dtype=layer.weight.dtype)
    state = {k: v for k, v in layer.state_dict().items() if k in twin.state_dict()}
    twin.load_state_dict({**state, 'weight': layer.effective_weight().detach()})
    return twin


def _cases() -> list[Case]:
    image = (2, 4, 7, 6)
    conv = {'kernel_size': 3, 'stride': 2, 'padding': 1, 'groups': 2}
    line, solid = {**conv}, {**conv, 'kernel_size': 2}
    cases = []
    for family in ('WS', 'AWS', 'WN'):

        def layer(name: str, family: str = family) -> type[nn.Module]:
            return getattr(layers, name.format(family))

        cases += [
            Case(layer('Conv{}1d'), nn.Conv1d, line, ((2, 4, 9),)),
            Case(layer('Conv{}2d'), nn.Conv2d, conv, (image,)),
            Case(layer('Conv{}3d'), nn.Conv3d, solid, ((2, 4, 4, 3, 5),)),
            Case(layer('ConvTranspose{}1d'), nn.ConvTranspose1d, line, ((2, 4, 5),)),
            Case(layer('ConvTranspose{}2d'), nn.ConvTranspose2d, conv, ((2, 4, 3, 4),)),
            Case(layer('ConvTranspose{}3d'), nn.ConvTranspose3d, solid, ((2, 4, 2, 3, 2),)),
            Case(layer('Linear{}'), nn.Linear, {}, ((2, 3, 4),)),
            Case(
                layer('DeformConv{}2d'),
                DeformConv2d,
                {'kernel_size': 3, 'padding': 1, 'groups': 2},
                (image, (2, 18, 7, 6), (2, 9, 7, 6)),
                twice=False,
            ),
            Case(
                layer('DeformConvPack{}2d'),
                DeformConv2dPack,
                {'kernel_size': 3, 'padding': 1, 'groups': 2, 'deform_groups': 2},
                (image,),
                twice=False,
            ),
            Case(
                layer('ModulatedDeformConvPack{}2d'),
                ModulatedDeformConv2dPack,
                {'kernel_size': 3, 'padding': 1, 'deform_groups': 2},
                (image,),
                twice=False,
            ),
        ]
    return [
        *cases,
        Case(layers.ScaledConvWS2d, nn.Conv2d, conv, (image,)),
    ]


CASES = _cases()
every_layer = pytest.mark.parametrize('case', CASES, ids=lambda case: case.layer.__name__)
