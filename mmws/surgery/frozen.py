"""What was frozen in a model with Batch Normalization, and need not be or must not be now."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from mmws.config.tree import init_cfgs, kind
from mmws.layers import WeightFunctionMixin

from .follow import Changed
from .libraries import is_normalization


def thaw(changed: Changed, model: nn.Module) -> Iterator[str]:
    """Undo MMDetection's ``norm_eval``; yield a note on each."""
    for name, owner in model.named_modules():
        if not getattr(owner, 'norm_eval', False):
            continue
        norms = [m for m in owner.modules() if m in changed and is_normalization(m)]
        filters = [m for m in owner.modules() if m in changed and not is_normalization(m)]
        if not norms and any(not m.adopts_plain_weight() for m in filters):
            yield (
                f'{name or "model"}.norm_eval keeps statistics of the filters before: turn it off'
            )
        if norms:
            owner.norm_eval = False
            for parent in owner.modules():
                for child in parent.children():
                    if child in norms:
                        child.train(parent.training)
            yield f'{name or "model"}.norm_eval is off: there are no statistics to freeze'


def warnings_of(changed: Changed, model: nn.Module) -> Iterator[str]:
    """Yield what would go wrong with weights of the model before."""
    frozen = [
        m for m in changed if isinstance(m, WeightFunctionMixin) and not m.weight.requires_grad
    ]
    if frozen:
        stages = [
            f'{name or "model"}.frozen_stages={module.frozen_stages}'
            for name, module in model.named_modules()
            if getattr(module, 'frozen_stages', -1) > -1
        ]
        why = f' ({", ".join(stages)})' if stages else ''
        yield (
            f'{len(frozen)} of the changed convolutions are frozen{why}: right with weights that '
            'were trained in this form, and with no others'
        )
    for name, module in model.named_modules():
        for cfg in init_cfgs(module):
            if kind(cfg) == 'Pretrained' and not changed.keys().isdisjoint(module.modules()):
                yield (
                    f'{name or "model"}.init_cfg loads {cfg.get("checkpoint")}: right if these '
                    'weights were trained in this form'
                )
