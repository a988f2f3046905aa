"""What a whole step or evaluation of a model shares: weights made together, or held."""

from .hold import HeldWeights, hold_weights
from .step import TrainingStep

__all__ = ['HeldWeights', 'TrainingStep', 'hold_weights']
