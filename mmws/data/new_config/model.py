"""Set the number of classes in every head."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from mmws.config.code import Code
from mmws.config.tree import KeyPath, rewrite, value_at, walk

from ..preflight import NOT_HEADS, head_classes


def classes_of_base(model: dict) -> int:
    """Return the number of classes of the base's data set: that of its (first) box head."""
    found = list(head_classes(model))
    if not found:
        raise ValueError('the base model has no head with num_classes: take a detector as base')
    return next((value for key, value in found if 'bbox_head' in key.split('.')), found[0][1])


def model_override(model: dict, old: int) -> dict:
    """Return the nested dict that sets each ``num_classes`` of value ``old`` in the heads."""

    def with_classes(path: KeyPath, value: Any) -> Any:
        return Code('num_classes') if path[-1] == 'num_classes' and value == old else value

    override: dict[str, Any] = {}
    for path, value in walk(model, enter=lambda path, _: not {*path} & {*NOT_HEADS}):
        if path[-1:] == ('num_classes',) and value == old:
            # A list in a config replaces the base's as a whole, e.g. the heads of a cascade.
            *parents, key = map(str, takewhile(lambda key: isinstance(key, str), path))
            node = override
            for parent in parents:
                node = node.setdefault(parent, {})
            node[key] = rewrite(value_at(model, (*parents, key)), with_classes, (*parents, key))
    return override


def merged(one: dict, other: dict) -> dict:
    """Return nested dicts merged; where both have a value that is no dict, the other's."""
    both = {
        key: merged(one[key], value)
        if isinstance(value, dict) and isinstance(one.get(key), dict)
        else value
        for key, value in other.items()
    }
    return {**one, **both}
