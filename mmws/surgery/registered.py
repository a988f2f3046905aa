"""Layers by their names in a config, with MMEngine's registry or without."""

from __future__ import annotations

from torch import nn

from mmws.registry import MODELS


def find_layer(name: str) -> type[nn.Module] | None:
    """Return the layer class that a config calls ``name``, None if there is none.

    The layers of mmws are found without MMEngine's search, which imports every module that
    registers a model: MMDetection would be imported to convert a model of another library, and an
    MMDetection that cannot be imported would stop the conversion.
    """
    own: type[nn.Module] | None = MODELS.module_dict.get(name.removeprefix('mmws.'))
    found = own or MODELS.get(name)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def registered_name(cls: type[nn.Module]) -> str:
    """Return the name of a layer of mmws in a config, without the scope ``mmws.``."""
    return next(name for name, layer in MODELS.module_dict.items() if layer is cls)
