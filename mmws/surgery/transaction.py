"""Changing a model whole or not at all."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Undo every change of layers and attributes in ``model`` if the block raises.

    Values of parameters are not copied: a conversion does not change them.
    """
    snapshots = [_Snapshot(module) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    except BaseException:
        for snapshot in snapshots:
            snapshot.restore()
        for parameter, requires_grad in trainable:
            parameter.requires_grad_(requires_grad)
        raise


class _Snapshot:
    """Class, attributes and tables of one module."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._class = module, type(module)
        self._attributes = dict(vars(module))
        if 'init_cfg' in self._attributes:  # of MMEngine, in which names of layers are changed
            self._attributes['init_cfg'] = copy.deepcopy(self._attributes['init_cfg'])
        tables: dict[str, Any] = {
            name: value for name, value in vars(module).items() if isinstance(value, dict)
        }
        self._tables = [(table, dict(table)) for table in tables.values()]

    def restore(self) -> None:
        self._module.__class__ = self._class
        attributes = vars(self._module)
        attributes.clear()
        attributes.update(self._attributes)
        for table, entries in self._tables:
            table.clear()
            table.update(entries)
