"""Walk through the nested dicts, lists and tuples of a config, and rewrite them.

A config of MMEngine is a tree: dicts (``ConfigDict`` is one), lists and tuples are its inner nodes,
and everything else is a leaf. A *path* is the tuple of keys and indices that leads from the root
to a value, such as ``('model', 'roi_head', 'bbox_head', 0, 'num_classes')``; :func:`dotted` writes
it as ``--cfg-options`` takes it. A *component* is a dict with a ``type``, which a registry builds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

KeyPath = tuple[str | int, ...]


class _Drop:
    def __repr__(self) -> str:
        return 'DROP'


DROP: Final = _Drop()
"""What the function given to :func:`rewrite` returns to leave a value out of its dict or list."""


def walk(
    tree: Any, path: KeyPath = (), *, enter: Callable[[KeyPath, Any], bool] | None = None
) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every value of a tree with its path, a dict or a list before what is inside it.

    Args:
        tree: The root, which is yielded first.
        path: Path of the root, for a part of a larger tree.
        enter: Called with the path and the value of every dict, list and tuple after it is yielded;
            what is inside is skipped unless the call returns true. ``None``: skip nothing.

    Yields:
        Paths and values. The tree must not get or lose keys while the generator is used.
    """
    yield path, tree
    children = _children(tree)
    if children and (enter is None or enter(path, tree)):
        for key, value in children:
            yield from walk(value, (*path, key), enter=enter)


def rewrite(tree: Any, change: Callable[[KeyPath, Any], Any], path: KeyPath = ()) -> Any:
    """Return a copy of a tree in which every value is replaced by ``change(path, value)``.

    Values are changed from the inside out: ``change`` gets a dict, list or tuple that is a copy
    of the original, of the same class, and already has the changed values in it. It may return
    the value as it is, another one, or :data:`DROP`. The original is not modified.

    Args:
        tree: The root.
        change: The function. Paths are those in the original: indices do not move when elements of
            a list are dropped.
        path: Path of the root, for a part of a larger tree.

    Raises:
        ValueError: if ``change`` drops the root.
    """
    new = _rewrite(tree, change, path)
    if new is DROP:
        raise ValueError(f'the root of a tree cannot be dropped (path {path})')
    return new


def _rewrite(node: Any, change: Callable[[KeyPath, Any], Any], path: KeyPath) -> Any:
    if isinstance(node, (dict, list, tuple)):
        entries = [(key, _rewrite(v, change, (*path, key))) for key, v in _children(node)]
        entries = [(key, value) for key, value in entries if value is not DROP]
        is_dict = isinstance(node, dict)
        node = type(node)(entries if is_dict else [value for _, value in entries])
    return change(path, node)


def _children(node: Any) -> list[tuple[Any, Any]]:
    """Return keys or indices, and values, of a dict, list or tuple; nothing for a leaf."""
    if isinstance(node, dict):
        return list(node.items())
    return list(enumerate(node)) if isinstance(node, (list, tuple)) else []


def value_at(tree: Any, path: KeyPath, default: Any = None) -> Any:
    """Return the value at a path, ``default`` if the tree has no such path."""
    for key in path:
        children = dict(_children(tree))
        if key not in children:
            return default
        tree = children[key]
    return tree


def dotted(path: KeyPath) -> str:
    """Return a path as ``--cfg-options`` takes it, such as ``roi_head.bbox_head.0.num_classes``."""
    return '.'.join(map(str, path))


def kind(component: Any) -> str:
    """Return the ``type`` of a component's config without its scope, such as ``CocoDataset``.

    Args:
        component: A dict whose ``type`` is a name (``CocoDataset``, ``mmdet.CocoDataset``) or the
            class itself. Anything else has no kind, which is the empty string.
    """
    given = component.get('type') if isinstance(component, dict) else None
    if given is None:
        return ''
    name = given.__name__ if isinstance(given, type) else str(given)
    return name.rpartition('.')[2]


OTHER_LIBRARIES = {'mmpretrain': 'MMPretrain', 'mmseg': 'MMSegmentation'}
"""Libraries whose samples and predictions are not MMDetection's, by the scope of their configs."""


def other_library(cfg: Any) -> str | None:
    """Return the library that a config's model is of, None if it is MMDetection."""
    return OTHER_LIBRARIES.get(cfg.get('default_scope') or '')


def init_cfgs(component: Any) -> list[dict[str, Any]]:
    """Return the initializers of a component, which ``init_cfg`` gives as one dict or several.

    Args:
        component: The config of a component, or the module that was built from it.

    Returns:
        The dicts themselves, no copies; an empty list where there is no ``init_cfg``.
    """
    is_config = isinstance(component, dict)
    given = component.get('init_cfg') if is_config else getattr(component, 'init_cfg', None)
    return [given] if isinstance(given, dict) else list(given or [])


def datasets(
    dataset: Any, path: KeyPath = (), *, wrappers: bool = False
) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Yield the data sets in the ``dataset`` of a data loader, each with its path.

    Wrappers hold one data set or several as ``dataset`` (``RepeatDataset``,
    ``MultiImageMixDataset``) or ``datasets`` (``ConcatDataset``); a list concatenates too.

    Args:
        dataset: Config of a data set or of a wrapper, or a list of them. ``None`` has no data set.
        path: Path of ``dataset``, for a part of a larger tree.
        wrappers: Yield the wrappers as well, each before what it wraps.
    """
    if isinstance(dataset, (list, tuple)):
        for index, inner in enumerate(dataset):
            yield from datasets(inner, (*path, index), wrappers=wrappers)
    elif isinstance(dataset, dict):
        keys = [key for key in ('dataset', 'datasets') if key in dataset]
        if wrappers or not keys:
            yield path, dataset
        for key in keys:
            yield from datasets(dataset[key], (*path, key), wrappers=wrappers)
