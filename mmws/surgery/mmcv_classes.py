"""Classes of MMCV that a model may hold. Where MMCV is not installed, they have no instances."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn

from mmws.compat import is_installed

if is_installed('mmcv', 'mmengine'):
    from mmcv.cnn import ConvModule
    from mmcv.cnn.bricks import conv_ws, wrappers
    from mmcv.cnn.bricks.norm import infer_abbr
    from mmcv.ops import DeformConv2d, ModulatedDeformConv2d, SyncBatchNorm
else:

    def _absent(name: str) -> Any:
        return type(name, (nn.Module,), {})

    ConvModule = _absent('ConvModule')
    DeformConv2d = _absent('DeformConv2d')
    ModulatedDeformConv2d = _absent('ModulatedDeformConv2d')
    SyncBatchNorm = _absent('SyncBatchNorm')
    conv_ws = SimpleNamespace(ConvWS2d=_absent('ConvWS2d'), ConvAWS2d=_absent('ConvAWS2d'))
    wrappers = SimpleNamespace(
        **{
            name: _absent(name)
            for name in ('Conv2d', 'Conv3d', 'ConvTranspose2d', 'ConvTranspose3d')
        }
    )

    def infer_abbr(class_type: type[nn.Module]) -> str:
        """Return no abbreviation: naming a norm by its kind is MMCV's habit."""
        return ''


__all__ = [
    'ConvModule',
    'DeformConv2d',
    'ModulatedDeformConv2d',
    'SyncBatchNorm',
    'conv_ws',
    'infer_abbr',
    'wrappers',
]
