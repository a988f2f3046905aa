"""The checkpoints that weights come from, and what is known of their training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from mmws.compat import Source, source_of

from ..metadata import META_KEY, PLAIN, STANDARDIZED, Parametrization, WeightMetadata
from ..published import Published, lookup


class Origin(NamedTuple):
    """A checkpoint and what is known of its training."""

    name: str
    metadata: WeightMetadata | None
    published: Published | None
    illegible: str | None = None
    """Why the metadata of the checkpoint cannot be read; None if it can, or has none."""

    @property
    def known(self) -> bool:
        """Whether anything is known of the training."""
        return self.metadata is not None or self.published is not None

    def parametrization(self, layer: str) -> Parametrization | None:
        """Return the parametrization that a layer was trained with, None if it is unknown.

        Args:
            layer: Name of the layer in the checkpoint.
        """
        if self.metadata is not None:
            return self.metadata.parametrization(layer)
        if self.published is None:
            return PLAIN if self.name.startswith(('torchvision://', 'modelzoo://')) else None
        if self.published.config is not None and not layer.startswith('backbone.'):
            # Published GN+WS detectors have plain prediction layers, which names do not tell apart.
            return None if self.published.conv else PLAIN
        return STANDARDIZED if self.published.conv else PLAIN

    def normalization(self) -> dict[str, Any] | None:
        """Return how the images of the training were normalized, None if that is unknown."""
        if self.metadata is not None:
            return self.metadata.data_preprocessor
        return None if self.published is None else self.published.data_preprocessor


@lru_cache(maxsize=8)  # because checks ask for the origin of every layer
def origin_of(source: Source) -> Origin:
    """Return what is known of a checkpoint that MMEngine or mmws has read."""
    described, metadata, illegible = source.meta.get(META_KEY), None, None
    if described is not None:
        try:
            metadata = WeightMetadata(described)
        except ValueError as error:
            illegible = str(error)
    return Origin(source.name, metadata, lookup(source.name), illegible)


def origins_of(weights: Mapping[str, Any]) -> Iterator[Origin]:
    """Yield the checkpoints that weights come from, usually one."""
    found = (source_of(v) for v in weights.values() if isinstance(v, Tensor))
    return map(origin_of, dict.fromkeys(source for source, _ in filter(None, found)))
