"""Whether the parts of a training's config have the kinds that MMEngine expects of them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .tree import datasets, dotted, walk


class ConfigError(ValueError):
    """A config from which MMEngine cannot build or run a training or a test."""


def _is_dict(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_positive_count(value: Any) -> bool:
    return _is_count(value) and value > 0


def _is_length(value: Any) -> bool:
    # MMEngine takes 57300.0 as well, as configs of V3Det have it.
    is_whole = isinstance(value, float) and value.is_integer() and value >= 1
    return is_whole or _is_positive_count(value)


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and -math.inf < value < math.inf


def _is_rate(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_interval(value: Any) -> bool:
    return _is_positive_count(value) or (value == -1 and not isinstance(value, float))


# Arguments of torch.nn.utils.clip_grad_norm_ and clip_grad_value_; the first one is needed.
_CLIPPING = {
    'norm': ('max_norm', 'norm_type', 'error_if_nonfinite', 'foreach'),
    'value': ('clip_value', 'foreach'),
}


def _is_clipping(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    known = _CLIPPING.get(str(value.get('type', 'norm')), ())
    if not known or known[0] not in value or not value.keys() <= {'type', *known}:
        return False
    # An infinite `max_norm` clips nothing and logs the norm; an infinite norm is the maximum.
    numbers = [value[key] for key in (known[0], 'norm_type') if key in value]
    return all(n in (math.inf, 'inf') or (_is_rate(n) and n > 0) for n in numbers)


def _is_file_template(value: Any) -> bool:
    try:
        return isinstance(value, str) and value.format(1) != value.format(2)
    except (AttributeError, LookupError, TypeError, ValueError):
        return False


def _is_component(value: Any) -> bool:
    return isinstance(value, Mapping) and ('type' in value)


def _is_list_of_components(value: Any) -> bool:
    return _is_list(value) and all(map(_is_component, value))


def _is_component_or_list(value: Any) -> bool:
    return _is_component(value) or _is_list_of_components(value)


def _is_evaluator(value: Any) -> bool:
    if _is_dict(value) and 'metrics' in value:
        return _is_component_or_list(value['metrics'])
    return _is_component_or_list(value)


def _is_schedule(value: Any) -> bool:
    # With several optimizers, there are schedules for each by its name.
    by_name = _is_dict(value) and value and all(map(_is_component_or_list, value.values()))
    return bool(by_name) or _is_component_or_list(value)


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


_EVALUATORS = tuple(
    f'{split}_evaluator{place}' for split in ('val', 'test') for place in ('', '.*', '.metrics.*')
)
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_KINDS: dict[Callable[[Any], bool], tuple[str, tuple[str, ...]]] = {
    _is_dict: (
        'a dict',
        (
            'model', *_LOADERS, 'train_cfg', 'val_cfg', 'test_cfg', 'optim_wrapper',
            'default_hooks', 'auto_scale_lr', 'randomness', 'env_cfg', 'env_cfg.dist_cfg',
            'env_cfg.mp_cfg', 'log_processor', 'custom_imports', 'optim_wrapper.paramwise_cfg',
            *(f'{evaluator}.backend_args' for evaluator in _EVALUATORS),
        ),
    ),
    _is_component: (
        'a dict with a type',
        (
            'visualizer', 'optim_wrapper.optimizer', 'default_hooks.*',
            *(f'{loader}.{key}' for loader in _LOADERS for key in ('dataset', 'sampler')),
        ),
    ),
    _is_evaluator: (
        'a dict with a type, or a list of these',
        ('val_evaluator', 'test_evaluator'),
    ),
    _is_schedule: ('a dict with a type, or a list of these', ('param_scheduler',)),
    _is_list_of_components: ('a list of dicts with a type', ('custom_hooks',)),
    _is_text: (
        'a text',
        (
            'work_dir', 'load_from', 'default_scope', 'experiment_name',
            'env_cfg.mp_cfg.mp_start_method',
        ),
    ),
    _is_path: ('a path', tuple(f'{evaluator}.ann_file' for evaluator in _EVALUATORS)),
    _is_switch: ('True or False', ('resume', 'auto_scale_lr.enable', 'randomness.deterministic')),
    _is_count: (
        'a whole number',
        (
            'randomness.seed', *(f'{loader}.num_workers' for loader in _LOADERS),
            'train_cfg.val_begin', 'log_processor.num_digits',
        ),
    ),
    _is_positive_count: (
        'a whole number of at least 1',
        (
            *(f'{loader}.batch_size' for loader in _LOADERS), 'optim_wrapper.accumulative_counts',
            'auto_scale_lr.base_batch_size', 'log_processor.window_size',
        ),
    ),
    _is_length: (
        'a whole number of at least 1',
        ('train_cfg.max_iters', 'train_cfg.max_epochs', 'train_cfg.val_interval'),
    ),
    _is_rate: (
        'a finite number of at least 0',
        ('optim_wrapper.optimizer.lr', 'optim_wrapper.optimizer.weight_decay'),
    ),
    _is_number: (
        'a finite number',
        tuple(
            f'{schedule}.{key}'
            for schedule in ('param_scheduler', 'param_scheduler.*', 'param_scheduler.*.*')
            for key in ('gamma', 'factor', 'start_factor', 'end_factor', 'eta_min', 'power')
        ),
    ),
    _is_interval: (
        'a whole number of at least 1, or -1',
        (
            'default_hooks.checkpoint.interval', 'default_hooks.checkpoint.max_keep_ckpts',
            'default_hooks.visualization.interval',
        ),
    ),
    _is_clipping: (
        "dict(max_norm=..., norm_type=2) or dict(type='value', clip_value=...), of positive "
        'numbers,',
        ('optim_wrapper.clip_grad',),
    ),
    _is_file_template: (
        "a text with one {} for the step, such as 'step_{}.pth',",
        ('default_hooks.checkpoint.filename_tmpl',),
    ),
}  # fmt: skip
_KIND_OF = {path: (test, name) for test, (name, paths) in _KINDS.items() for path in paths}
# Of every data set, those inside of wrappers, too.
_KIND_IN_DATASET = {'data_root': _is_path, 'backend_args': _is_dict, 'metainfo': _is_dict}
_NAMES = {_is_path: 'a path', _is_dict: 'a dict'}
_MOST = 2**63  # what fits into an integer of PyTorch
_MOST_SHOWN = 60  # characters of a value in a message


def check_structure(cfg: Mapping[str, Any]) -> None:
    """Check the kinds of the parts of a config that every training and test has.

    A part that is missing or None passes. MMEngine would fail somewhere in its own code, on the
    wrong value's attributes, and not say which setting is at fault.

    Args:
        cfg: The config of a run, with command line options merged in.

    Raises:
        ConfigError: naming the first part that is of another kind.
    """
    root = dict(cfg)  # `Config` of MMEngine is no Mapping
    for path, (test, name) in _KIND_OF.items():
        for found, value in _values_at(root, path.split('.')):
            if value is not None and not test(value):
                raise ConfigError(_wrong_kind(found, name, value))
    for loader in _LOADERS:
        _check_datasets(loader, (root.get(loader) or {}).get('dataset'))
    for keys, value in walk(root):
        if isinstance(value, int) and abs(value) >= _MOST:
            raise ConfigError(f'{".".join(map(str, keys))} in the config is too large a number')


def _check_datasets(loader: str, dataset: Any) -> None:
    for keys, part in datasets(dataset, (loader, 'dataset')):
        for key, test in _KIND_IN_DATASET.items():
            value = part.get(key)
            if value is not None and not test(value):
                raise ConfigError(_wrong_kind(dotted((*keys, key)), _NAMES[test], value))


def _values_at(node: Any, path: list[str], found: str = '') -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values at a path, in which ``*`` stands for every key or place."""
    if not path:
        yield found, node
        return
    items: Mapping[Any, Any] = {}
    if isinstance(node, Mapping):
        items = node
    elif _is_list(node):
        items = {str(i): value for i, value in enumerate(node)}
    for key in items if path[0] == '*' else items.keys() & {path[0]}:
        yield from _values_at(items[key], path[1:], f'{found}.{key}' if found else str(key))


def _wrong_kind(key: str, wanted: str, value: Any) -> str:
    return f'{key} must be {wanted} in the config, got {_shown(value)}'


def _shown(value: Any) -> str:
    text = f'{type(value).__name__} {value!r}' if not isinstance(value, int) else 'a number'
    if isinstance(value, int) and abs(value) < _MOST:
        text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f'{text[:_MOST_SHOWN]}...'
