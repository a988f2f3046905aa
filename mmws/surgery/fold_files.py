"""From a config and a checkpoint that need mmws to a config and a checkpoint that do not."""

from __future__ import annotations

import copy
import inspect
import os
import tempfile
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine import registry
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmws.checkpoints import Checkpoint, check_weights
from mmws.checkpoints.classes import require_same_classes
from mmws.config import read_config
from mmws.config.tree import KeyPath, datasets, kind, other_library, rewrite, walk
from mmws.layers import GroupNorm
from mmws.testing.compare import max_difference
from mmws.testing.trial import compare_outputs

from .converted import unconverted_config
from .folding import fold, needing_mmws, own_arguments, plain_class

TOLERANCE = 1e-4

# Of a checkpoint's meta: the rest describes the training, whose config names layers of mmws.
_KEPT_META = ('dataset_meta', 'epoch', 'iter', 'mmengine_version')
_REGISTRIES = [r for r in vars(registry).values() if isinstance(r, registry.Registry)]


@dataclass(frozen=True)
class FoldedFiles:
    """What was written.

    Attributes:
        config: The config of the plain model; None if only weights were asked for.
        checkpoint: Its weights.
        difference: Largest difference of outputs before and after, see
            :func:`mmws.testing.compare.max_difference`.
    """

    config: Path | None
    checkpoint: Path
    difference: float


def fold_files(
    config: str | Path, checkpoint: str | Path, out: str | Path, weights_only: bool = False
) -> FoldedFiles:
    """Write a config and a checkpoint of the folded model that need no mmws.

    ``out/<config>_folded.py`` inherits from no file, and ``out/<checkpoint>_folded.pth`` has the
    weights and the classes of the data set, no optimizer. Before either is written, the model of
    the new config has loaded the new weights, strictly, and has given the outputs of the model of
    the old ones on random images. Absolute paths of the training's machine become relative ones
    under ``data/<name of the data's folder>``.

    Args:
        config: Config of the model, a path or ``mmdet::folder/name.py``.
        checkpoint: Its checkpoint.
        out: Folder to write to.
        weights_only: Write the checkpoint alone, with the parameter names of the model as it is:
            for models that no plain config describes.

    Raises:
        FileNotFoundError: if a file is missing.
        FileExistsError: if a file to write exists.
        CheckpointMismatchError: if the checkpoint was trained on other classes than the config
            names, or on them in another order.
        ValueError: if the checkpoint is not the config's, no plain config describes the model, or
            outputs differ by more than 1e-4. Nothing is written in any case.
    """
    out = Path(out)
    new_config = out / f'{Path(str(config)).stem}_folded.py'
    new_checkpoint = out / f'{Path(checkpoint).stem}_folded.pth'
    for path in (new_checkpoint,) if weights_only else (new_checkpoint, new_config):
        if path.exists():
            raise FileExistsError(f'{path} exists: remove it, or give another folder')

    cfg = read_config(config)
    trained = Checkpoint.read(checkpoint)
    classes = _named_classes(cfg)
    if classes:
        require_same_classes(trained, classes)
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    model = MODELS.build(copy.deepcopy(cfg.model)).eval()
    load_weights(model, trained.weights, f'checkpoint {checkpoint}')
    folded = fold(model)
    meta = {k: v for k, v in trained.meta.items() if k in _KEPT_META}

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        written = Path(folder, new_config.name)
        if not weights_only:
            rest = needing_mmws(folded)
            if rest:
                name, cls = next(iter(rest.items()))
                raise ValueError(
                    f'no plain layer does the same as {cls} ({name or "the model"}): '
                    'give `weights_only=True` for the checkpoint alone'
                )
            plain_config(cfg, model).dump(written)
            meta['cfg'] = written.read_text(encoding='utf-8')
            folded = _plain_twin(read_config(written), folded)
        difference = _difference(model, folded, cfg)
        if difference > TOLERANCE:
            raise ValueError(
                f'outputs of the folded model differ by {difference:.1e}, more than {TOLERANCE}'
            )
        weights = Path(folder, new_checkpoint.name)
        torch.save({'meta': meta, 'state_dict': folded.state_dict()}, weights)
        os.replace(weights, new_checkpoint)
        if not weights_only:
            os.replace(written, new_config)
    return FoldedFiles(None if weights_only else new_config, new_checkpoint, difference)


def _difference(model: nn.Module, folded: nn.Module, cfg: Config) -> float:
    """Return how far the outputs of two models lie apart; of models of other tasks the scores."""
    if other_library(cfg) is None:
        return compare_outputs(model, folded, _model_config(cfg.model))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, 128, 128, generator=generator, device='cpu')
    images = images.to(next(model.parameters()).device)
    with torch.no_grad():
        return max_difference(folded(images), model(images))


def plain_config(cfg: Config, model: nn.Module) -> Config:
    """Return a config that describes the folded model and names nothing of mmws.

    Layers of mmws become the plain ones under their registered names, with the group counts that
    the layers of ``model`` have; ``mmws.Converted`` becomes the model that it converts, with GN
    in place of its norms. Hooks of mmws go; imports of it and pretrained weights as well.

    Args:
        cfg: Config of ``model``.
        model: The model before folding.

    Raises:
        ValueError: if a layer or another component has no plain counterpart, or one ``norm_cfg``
            stands for layers with different numbers of groups.
    """
    new = copy.deepcopy(cfg._cfg_dict)
    inner = _model_config(new['model'])
    if inner is not new['model']:
        inner = rewrite(inner, partial(_with_group_norm, model))
    new['model'] = rewrite(inner, partial(_plain_layers, model))
    if 'custom_hooks' in new:
        new['custom_hooks'] = [h for h in new['custom_hooks'] if not _is_own(h.get('type'))]
    imports = new.get('custom_imports') or {}
    if imports:
        modules = imports['imports']
        modules = [modules] if isinstance(modules, str) else modules
        imports['imports'] = [m for m in modules if m.partition('.')[0] != 'mmws']
        if not imports['imports']:
            del new['custom_imports']
    new['load_from'], new['resume'] = None, False
    new.pop('work_dir', None)
    return Config(_without_own_paths(dict(rewrite(new, _plain_component))))


def _named_classes(cfg: Config) -> list[str]:
    """Return the class names that a config gives to its data; empty if it leaves them to them."""
    for split in ('test', 'val', 'train'):
        loader = cfg.get(f'{split}_dataloader') or {}
        for _, dataset in datasets(loader.get('dataset')):
            names = (dataset.get('metainfo') or {}).get('classes')
            if isinstance(names, (list, tuple)):
                return list(names)
    return []


def _without_own_paths(cfg: dict[str, Any]) -> dict[str, Any]:
    """Return a config in which absolute paths are relative ones, ``data/<folder>/...``."""
    paths = [value for _, value in walk(cfg) if _is_absolute(value)]
    if not paths:
        return cfg
    root = str(cfg.get('data_root'))
    if not _is_absolute(root):
        root = os.path.commonpath([*map(os.path.dirname, paths)])

    def relative(_: KeyPath, value: Any) -> Any:
        if not _is_absolute(value):
            return value
        inside = os.path.relpath(value, root)
        if inside.startswith('..'):
            inside = os.path.basename(value.rstrip('/'))
        # MMDetection joins some paths as text, so a folder keeps its slash.
        end = '/' if value.endswith('/') else ''
        return os.path.normpath(os.path.join('data', Path(root).name, inside)) + end

    return rewrite(cfg, relative)


def _is_absolute(value: Any) -> bool:
    return isinstance(value, str) and os.path.isabs(value)


def _model_config(config: ConfigDict) -> ConfigDict:
    """Return the config of the model itself, without a conversion around it."""
    if config['type'] != 'mmws.Converted':
        return config
    return unconverted_config(config)[0]


def _is_own(name: Any) -> bool:
    return isinstance(name, str) and name.startswith('mmws.')


def load_weights(model: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Load all weights of a model, strictly.

    Args:
        model: The model.
        weights: Its state dict, perhaps with the prefix of a wrapper.
        name: What to call the weights in an error.

    Raises:
        ValueError: if they are not those of the model.
    """
    # A prefix is what data-parallel wrappers leave; MMEngine strips it too.
    weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    check_weights(model, weights)  # which says in short what PyTorch says of every weight
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f'{name} is not of this config: {error}') from error


def _plain_twin(cfg: Config, folded: nn.Module) -> nn.Module:
    """Return the model of a plain config with the weights of the folded model."""
    try:
        plain = MODELS.build(cfg.model).eval()
        plain.load_state_dict(folded.state_dict())
    except Exception as error:  # whatever a constructor makes of a config
        raise ValueError(
            f'no plain config describes this model ({type(error).__name__}: {error}): '
            'give `weights_only=True` for the checkpoint alone'
        ) from error
    return plain


def _with_group_norm(model: nn.Module, path: KeyPath, config: Any) -> Any:
    """Put ``norm_cfg`` of GN into a component whose norms a conversion made GN."""
    start: nn.Module | None = model
    module, cls = reduce(_child, path, start), _class_of(config)
    if module is not None and cls is not None:
        arguments = _arguments(cls)
        if 'norm_cfg' in arguments and _group_counts(module):
            config['norm_cfg'] = ConfigDict(type='mmws.GN', **_eps(module))
        if 'norm_eval' in arguments:
            config['norm_eval'] = False
    return config


def _plain_layers(model: nn.Module, path: KeyPath, config: Any) -> Any:
    """Return the config of a plain layer for one of ours, and no pretrained weights."""
    if kind(config) == 'Pretrained':
        return None
    cls = _class_of(config)
    if cls is None or not cls.__module__.startswith('mmws.'):
        return config
    plain = plain_class(cls)
    config['type'] = _registered_name(plain)
    if issubclass(cls, GroupNorm):
        # A `norm_cfg` builds no module of its own name: the closest one around it has the layers.
        owner = reduce(lambda module, key: _child(module, key) or module, path, model)
        config['num_groups'] = _group_count(owner)
    return ConfigDict({k: v for k, v in config.items() if k not in own_arguments(cls)})


def _class_of(config: Any) -> type | None:
    """Return the registered class that builds a component of a model, ``None`` for the rest."""
    named = isinstance(config, dict) and isinstance(config.get('type'), str)
    return MODELS.get(config['type']) if named else None


def _child(module: nn.Module | None, key: str | int) -> nn.Module | None:
    """Return the module built from an entry of a component's config, ``None`` if unknown."""
    if isinstance(module, nn.ModuleList) and isinstance(key, int) and key < len(module):
        return module[key]
    child = getattr(module, key, None) if isinstance(key, str) else None
    return child if isinstance(child, nn.Module) else None


def _group_counts(module: nn.Module) -> set[int]:
    return {m.num_groups for m in module.modules() if isinstance(m, GroupNorm)}


def _eps(module: nn.Module) -> dict[str, float]:
    """Return the argument ``eps`` of the norms in a module, if it is not the usual one."""
    values = {m.eps for m in module.modules() if isinstance(m, GroupNorm)}
    if len(values) > 1:
        raise ValueError(
            f'{type(module).__name__} has mmws.GN with eps of {sorted(values)}, and a plain '
            'norm_cfg takes one number: give `weights_only=True` for the checkpoint alone'
        )
    return {} if values == {1e-5} else {'eps': values.pop()}


def _group_count(module: nn.Module) -> int:
    counts = _group_counts(module)
    if len(counts) > 1:
        raise ValueError(
            f'{type(module).__name__} has mmws.GN of {sorted(counts)} groups, and a plain norm_cfg '
            'takes one number: give `weights_only=True` for the checkpoint alone'
        )
    return counts.pop() if counts else 32


def _registered_name(cls: type) -> str:
    """Return the name under which a config finds ``cls``, or MMCV's wrapper of it."""
    for name, registered in registry.MODELS.module_dict.items():
        wraps = registered.__module__ == 'mmcv.cnn.bricks.wrappers' and cls in registered.__bases__
        if registered is cls or wraps:
            return name
    raise ValueError(f'{cls.__qualname__} has no name in a config')


def _plain_component(path: KeyPath, config: Any) -> Any:
    """Return the config of the class that a component of mmws is derived from."""
    if not (isinstance(config, dict) and _is_own(config.get('type'))):
        return config
    name, cls = _registered_base(config['type'])
    arguments = _arguments(cls)
    return ConfigDict({k: v for k, v in config.items() if k in arguments}, type=name)


def _registered_base(name: str) -> tuple[str, type]:
    for root in _REGISTRIES:
        cls = root.get(name)
        for base in inspect.getmro(cls)[1:] if cls is not None else ():
            registered = _names(root, base) if not base.__module__.startswith('mmws.') else []
            if registered:
                return registered[0], base
    raise ValueError(f"type='{name}' in the config has no counterpart outside of mmws")


def _names(root: registry.Registry, cls: type) -> list[str]:
    tables = [root.module_dict, *(child.module_dict for child in root.children.values())]
    return [name for table in tables for name, registered in table.items() if registered is cls]


def _arguments(cls: type) -> set[str]:
    """Return the names of arguments that a class or one of its bases takes by name."""
    return {
        name
        for base in inspect.getmro(cls)
        if '__init__' in vars(base) and base is not object
        for name in inspect.signature(vars(base)['__init__']).parameters
    }
