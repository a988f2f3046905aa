from .conv import ConvWS2d
from .norm import GroupNorm, largest_group_count

__all__ = ['ConvWS2d', 'GroupNorm', 'largest_group_count']
