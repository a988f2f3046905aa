"""A model with the layers of one form of a study."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from mmws.layers import WNGRU, WNLSTM, WNRNN
from mmws.layers.weight_norm import WeightNormalization
from mmws.registry import MODELS
from mmws.surgery import convert, fold


@MODELS.register_module()
def InForm(
    model: dict[str, Any],
    conv: str | dict[str, Any] | None = None,
    norm: str | dict[str, Any] | None = 'BN',
    **settings: Any,
) -> nn.Module:
    """Build a model with Batch Normalization and give it other layers, ``type='mmws.InForm'``.

    The weights are initialised before the layers are replaced, so that models of all forms begin
    with the same filters for the same seed.

    Args:
        model: Config of the model with plain convolutions and Batch Normalization.
        conv: As for :func:`mmws.convert`.
        norm: As for :func:`mmws.convert`; ``'BN'`` leaves the norms, ``'SyncBN'`` takes their
            statistics over all processes. None removes them, and gives the layers before them a
            bias.
        **settings: What ``model`` has where it does not say otherwise. MMEngine's Runner puts the
            ``data_preprocessor`` of a config here, if the config has one outside of its model as
            those of MMPretrain and MMSegmentation do.

    Raises:
        ValueError: if ``conv`` or ``norm`` is unknown.
    """
    built = MMENGINE_MODELS.build({**settings, **model})
    if hasattr(built, 'init_weights'):
        built.init_weights()
    if conv == 'WN':
        _normalize_recurrent_layers(built)
    # Weight Normalization knows which layers fed a norm, and folds to plain ones with a bias.
    without_both = conv is None and norm is None
    if without_both:
        conv = 'WN'
    has_norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in built.modules())
    batch_norm = norm in ('BN', 'SyncBN')
    if has_norms and not (conv is None and batch_norm):
        convert(built, conv, None if batch_norm else norm)
    if norm == 'SyncBN':
        built = _synchronize_norms(built)
    if norm is None:
        _remove_norms(built)
    return fold(built) if without_both else built


def _synchronize_norms(model: nn.Module) -> nn.Module:
    if torch.cuda.is_available():
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    from mmcv.ops import SyncBatchNorm  # PyTorch's runs on GPUs only

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                layer = SyncBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
                layer.load_state_dict(child.state_dict())
                layer.weight, layer.bias = child.weight, child.bias
                setattr(module, name, layer.train(child.training))
    return model


def _remove_norms(model: nn.Module) -> None:
    for module in list(model.modules()):
        if isinstance(module, WeightNormalization) and module.bias is None:
            module.bias = nn.Parameter(torch.zeros(module.weight_g.numel()))
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, nn.Identity())


_RECURRENT: dict[type, type] = {nn.RNN: WNRNN, nn.LSTM: WNLSTM, nn.GRU: WNGRU}


def _normalize_recurrent_layers(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) in _RECURRENT:
                layer = _RECURRENT[type(child)](
                    child.input_size,
                    child.hidden_size,
                    child.num_layers,
                    bias=child.bias,
                    batch_first=child.batch_first,
                    dropout=child.dropout,
                    bidirectional=child.bidirectional,
                )
                layer.load_state_dict(child.state_dict())
                setattr(module, name, layer)
