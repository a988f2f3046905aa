"""Change values by field and type, and files by byte."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Input(NamedTuple):
    """An input that was written.

    Attributes:
        read: Reads it, as the tools of mmws do.
        names: What a refusal must name: one of these, such as the file.
        fields: The fields that were changed; empty where bytes were.
    """

    read: Callable[[], Any]
    names: tuple[str, ...]
    fields: tuple[str, ...] = ()


# What any field may hold that comes from a JSON file or the command line.
TEXT_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 3, 10**400, 2**63, math.nan, math.inf, -math.inf, 1e308, 1e9,
    '', 'ä' * 50, '\0', '../x', '1', '{{ HOME }}', '"""', [], [[]], [None], [1, 'a', None], {},
    {'': None}, {'type': 5}, {'a': {'b': [1]}},
)  # fmt: skip
# What only a pickled file can hold besides.
PICKLED_VALUES: tuple[Any, ...] = (
    (), b'\xff', {1: 2}, torch.tensor([]), torch.tensor(math.nan), torch.full((4, 3), math.nan),
    torch.ones(2, 3, dtype=torch.int8), torch.ones(4, 3, dtype=torch.complex64),
)  # fmt: skip


def mutate(
    tree: Any, numbers: random.Random, values: tuple[Any, ...] = TEXT_VALUES
) -> tuple[Any, tuple[str, ...]]:
    """Change one to three fields of a tree of dicts and lists: other values, or none.

    Returns:
        The changed copy, and the names of the fields.
    """
    tree = copy.deepcopy(tree)
    changed = []
    for _ in range(numbers.choice([1, 1, 1, 2, 3])):
        node, name = tree, ''
        for _ in range(8):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            if not keys:
                break
            key = numbers.choice(keys)
            name = str(key) if isinstance(node, dict) else name
            if isinstance(node[key], (dict, list)) and numbers.random() < 0.8:
                node = node[key]
                continue
            changed.append(name)
            if isinstance(node, dict) and numbers.random() < 0.3:
                del node[key]
            elif isinstance(node, list) and numbers.random() < 0.2:
                node.append(copy.deepcopy(node[key]))
            else:
                node[key] = near(node[key], numbers, values)
            break
    return tree, tuple(changed)


def near(value: Any, numbers: random.Random, values: tuple[Any, ...]) -> Any:
    """Return another value, sometimes one of the same kind."""
    if numbers.random() < 0.3:
        if isinstance(value, torch.Tensor):
            return numbers.choice(
                [value.half(), value[None], value * math.inf, value.flatten()[:1], value.tolist()]
            )
        if isinstance(value, str):
            return numbers.choice([value + 'x', value.upper(), value[:-1], f' {value}', [value]])
        if isinstance(value, (int, float)):
            return numbers.choice([value + 1, -value, value * 1000, str(value), [value]])
        if isinstance(value, (list, tuple)):
            return numbers.choice([value[:-1], list(value) * 2, dict(enumerate(value)), [value]])
    return copy.deepcopy(numbers.choice(values))


def damage(content: bytes, numbers: random.Random) -> bytes:
    """Return bytes that are cut, overwritten, repeated or replaced."""
    if not content:
        return b'\0'
    start = numbers.randrange(len(content))
    length = numbers.choice([1, 2, 16, 512])
    noise = bytes(numbers.randrange(256) for _ in range(length))
    return numbers.choice(
        [
            content[:start],
            content[:start] + noise + content[start + length :],
            content[:start] + content[start + length :],
            content[:start] + content[start : start + length] * 3 + content[start + length :],
            content[start:],
            noise,
            b'',
        ]
    )


def damage_file(path: Path, numbers: random.Random) -> None:
    """Damage a file in place."""
    path.write_bytes(damage(path.read_bytes(), numbers))
