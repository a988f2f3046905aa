from .published import BACKBONES, DETECTORS, Published, find_pretrained, lookup

__all__ = ['BACKBONES', 'DETECTORS', 'Published', 'find_pretrained', 'lookup']
