"""Weight Normalization: layers that learn length and direction of every filter apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmws.functional import Normalize
from mmws.functional.normalize import normalize
from mmws.functional.weight_function import Stored
from mmws.registry import MODELS

from .base import WeightFunctionMixin
from .kinds import ConvKind, ConvTransposeKind, LinearKind

# Where torch.nn.utils keeps (gain, direction): its old and its new weight_norm.
_TORCH_NAMES = (
    ('weight_g', 'weight_v'),
    ('parametrizations.weight.original0', 'parametrizations.weight.original1'),
)


class WeightNormalization(WeightFunctionMixin):
    r"""Mixin: compute with :math:`g_o V_o / \lVert V_o \rVert` for every filter ``o``.

    Weight Normalization (`arXiv 1602.07868 <https://arxiv.org/abs/1602.07868>`_). ``weight`` is
    :math:`V`, under the name and in the shape of the plain layer's; the learned gain is
    ``weight_g`` :math:`(O, 1, \ldots)`. A new layer, or one that loads a plain layer's state dict,
    has :math:`g_o = \lVert V_o \rVert` and computes with :math:`V` itself.

    State dicts of ``torch.nn.utils.weight_norm`` and of its successor in ``parametrizations`` load
    as well, if their gains belong to output channels: ``dim=0``, and ``dim=1`` for transposed
    layers of one group. Others are refused.

    After an initializer wrote ``weight`` alone, which then is nothing but a direction, call
    :meth:`reset_gain` to have the layer compute with what was written.
    """

    beside_weight = ('weight_g',)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        filters = self.stored_function().filters(self.weight)
        self.weight_g = nn.Parameter(
            self.weight.new_empty(len(filters), *[1] * (self.weight.dim() - 1))
        )
        self.reset_gain()

    def weight_function(self) -> Normalize:
        return Normalize()

    def formula(self, weight: Tensor) -> Tensor:
        return normalize(weight, self.weight_g)

    def stored_weights(self) -> Stored:
        return self.weight, self.weight_g

    @torch.no_grad()
    def reset_gain(self) -> None:
        """Set the gain to the norms of the filters: the layer then computes with ``weight``."""
        filters = self.stored_function().filters(self.weight)
        self.weight_g.copy_(Normalize.norms(filters).view_as(self.weight_g))

    def reset_parameters(self) -> None:
        super().reset_parameters()  # type: ignore[misc]  # of the plain layer
        if hasattr(self, 'weight_g'):  # not yet, when the plain layer initializes itself
            self.reset_gain()

    def reset_beside_weight(self) -> None:
        self.reset_gain()

    def adopt_plain_weight(self) -> None:
        self.reset_gain()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for gain, direction in _TORCH_NAMES:
            if prefix + direction in state_dict and prefix + gain in state_dict:
                g, v = state_dict.pop(prefix + gain), state_dict.pop(prefix + direction)
                # PyTorch's gain has as many dimensions as the weight, of size 1 all but one.
                dim = 1 if self.transposed else 0
                expected = [size if d == dim else 1 for d, size in enumerate(v.shape)]
                if list(g.shape) != expected or (self.transposed and self.groups > 1):
                    error_msgs.append(
                        f'{prefix}weight: weight_norm with gains of shape {tuple(g.shape)} does '
                        f'not normalize the output channels of {type(self).__name__}; it needs '
                        f'weight_norm(..., dim={dim})'
                        + (' and groups=1' if self.transposed else '')
                    )
                    g = self.weight_g.detach()
                state_dict[prefix + 'weight_g'] = g.reshape(-1, *[1] * (v.dim() - 1))
                state_dict[prefix + 'weight'] = v
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


@MODELS.register_module('ConvWN1d')
class ConvWN1d(WeightNormalization, ConvKind, nn.Conv1d):
    """``nn.Conv1d`` with Weight Normalization, ``type='mmws.ConvWN1d'``."""


@MODELS.register_module('ConvWN')
@MODELS.register_module('ConvWN2d')
class ConvWN2d(WeightNormalization, ConvKind, nn.Conv2d):
    """``nn.Conv2d`` with Weight Normalization, ``type='mmws.ConvWN'``."""


@MODELS.register_module('ConvWN3d')
class ConvWN3d(WeightNormalization, ConvKind, nn.Conv3d):
    """``nn.Conv3d`` with Weight Normalization, ``type='mmws.ConvWN3d'``."""


@MODELS.register_module('ConvTransposeWN1d')
class ConvTransposeWN1d(WeightNormalization, ConvTransposeKind, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with Weight Normalization, ``type='mmws.ConvTransposeWN1d'``."""


@MODELS.register_module('deconvWN')
@MODELS.register_module('ConvTransposeWN2d')
class ConvTransposeWN2d(WeightNormalization, ConvTransposeKind, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with Weight Normalization, ``type='mmws.deconvWN'``."""


@MODELS.register_module('deconv3dWN')
@MODELS.register_module('ConvTransposeWN3d')
class ConvTransposeWN3d(WeightNormalization, ConvTransposeKind, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with Weight Normalization, ``type='mmws.deconv3dWN'``."""


@MODELS.register_module('LinearWN')
class LinearWN(WeightNormalization, LinearKind, nn.Linear):
    """``nn.Linear`` with Weight Normalization, ``type='mmws.LinearWN'``."""
