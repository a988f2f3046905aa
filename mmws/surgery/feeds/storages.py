"""A table of what was found out about the memory that tensors share."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import Tensor

try:  # keeps the identity of a storage from being reused, and not its memory
    from torch.multiprocessing.reductions import StorageWeakRef
except ImportError:  # private to PyTorch
    StorageWeakRef = None  # type: ignore[assignment, misc]


def storage_key(tensor: Tensor) -> Hashable:
    """Return what tensors have in common that share memory."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, quantized by another library, ...
        return ('tensor', id(tensor))


class StorageTable:
    """Values of storages: a tensor and its views have the same."""

    def __init__(self) -> None:
        self._values: dict[Hashable, tuple[int, Any]] = {}

    def get(self, tensor: Tensor, default: int) -> int:
        found = self._values.get(storage_key(tensor))
        return default if found is None else found[0]

    def set(self, tensor: Tensor, value: int) -> None:
        key = storage_key(tensor)
        if isinstance(key, int) and StorageWeakRef is not None:
            alive: Any = StorageWeakRef(tensor.untyped_storage())
        else:
            alive = tensor
        self._values[key] = value, alive
