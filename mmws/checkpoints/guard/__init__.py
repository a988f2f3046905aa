"""Check that weights were trained with what the layers of a model do, before they are loaded.

MMEngine loads whatever keys and shapes have in common, and logs the rest. Weights of Batch
Normalization in a GN+WS model, or standardized weights in plain convolutions, then train or
evaluate to a worse detector without an error.

mmws knows what weights were trained with from the metadata that it writes into its checkpoints
(:mod:`mmws.checkpoints.metadata`), from the table of published weights
(:mod:`mmws.checkpoints.published`), and from the keys. ``import mmws`` makes MMEngine call
:func:`guard_loading` before every load, which raises for a known mismatch and warns where it cannot
know. ``MMWS_CHECKPOINT_GUARD=warn`` in the environment turns errors into warnings.

Each kind of mismatch has a module: ``keys``, ``norms``, ``weight_functions`` and
``image_normalization``. A check takes a :class:`~mmws.checkpoints.guard.load.Load` and yields each
:class:`~mmws.checkpoints.guard.load.Mismatch` that it finds; ``find_mismatches`` in ``check`` runs
the checks in order.
"""

from .check import CheckpointMismatchError, check_normalization, check_weights, guard_loading
from .model import unwrap

__all__ = [
    'CheckpointMismatchError',
    'check_normalization',
    'check_weights',
    'guard_loading',
    'unwrap',
]
