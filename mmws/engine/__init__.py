from .weight_norm_init import WeightNormInitHook, init_weight_norm

__all__ = ['WeightNormInitHook', 'init_weight_norm']
