"""The memory of what operators make, counted on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class LiveMemory(TorchDispatchMode):
    """While it is entered, counts the bytes of the tensors that are made and still alive.

    ::

        with LiveMemory() as memory:
            loss = model(images).sum()
            kept = memory.live()  # what the backward pass needs
            loss.backward()
        memory.peak  # gradients included

    Views take no memory of their own, and sparse tensors none but that of their parts. What
    operators need while they run, such as the workspaces of cuDNN, is not seen.

    Attributes:
        calls: How many operators have run, views aside.
        peak: The most bytes that were alive at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        aliases = [r.alias_info for r in func._schema.returns if r.alias_info is not None]
        self.calls += all(alias.is_write for alias in aliases)
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided and not aliases:
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                self._storages[reference.cdata] = reference, storage.nbytes()
        self.peak = max(self.peak, self.live())
        return out

    def live(self) -> int:
        """Return the bytes that are alive now."""
        dead = [key for key, (reference, _) in self._storages.items() if reference.expired()]
        for key in dead:
            del self._storages[key]
        return sum(size for _, size in self._storages.values())
