import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def allow_checkpoint_classes() -> None:
    """Let ``torch.load(weights_only=True)`` read the checkpoints that MMEngine writes.

    PyTorch ≥ 2.6 refuses every class it does not know. MMEngine keeps its log history in the
    checkpoint as :class:`mmengine.logging.HistoryBuffer`, which holds NumPy arrays; with just
    these allow-listed, the check itself stays on. Does nothing where PyTorch has no allow-list
    (< 2.4), whose default is not to check.
    """
    allow = getattr(torch.serialization, 'add_safe_globals', None)
    if allow is None:
        return
    multiarray = (
        np.core.multiarray
        if np.lib.NumpyVersion(np.__version__) < '2.0.0'
        else (np._core.multiarray)
    )
    allow(
        [
            HistoryBuffer,
            np.ndarray,
            np.dtype,
            multiarray._reconstruct,
            multiarray.scalar,
            *{type(np.dtype(t)) for t in (np.float32, np.float64, np.int32, np.int64, np.uint8)},
        ]
    )
