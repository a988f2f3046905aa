"""The dtype that an op computes in."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32, for which every kernel exists, and others as is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
