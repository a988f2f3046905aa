from .running import evaluate, load_config, prepare, train

__all__ = ['evaluate', 'load_config', 'prepare', 'train']
