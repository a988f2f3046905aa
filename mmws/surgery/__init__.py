from .folding import fold

__all__ = ['fold']
