"""Which layer feeds which normalization, found from the model itself.

A convolution *feeds* a normalization when no output of the model depends on the scale of the
convolution's output, because a normalization on each way takes the scale away. Weight
Standardization, which fixes the scale of every filter, then takes nothing from the model.

The model is run once on a small input, and every operation on the way is recorded as a graph
(:mod:`.tracer`). What each operation does to the scale of its inputs is known from a table
(:mod:`.scale_rules`) or tried out (:mod:`.probe`). The largest set of layers whose common scale
cancels is then found by taking out those that clash until none does (:mod:`.graph`). Layers that
the run does not reach are judged by structure (:mod:`.structure`).
"""

from .find import Feeds, find_feeds

__all__ = ['Feeds', 'find_feeds']
