"""Compare the classes of a checkpoint with those of a data set, and its weights with a model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from .checkpoint import Checkpoint
from .guard import CheckpointMismatchError

_SHOWN = 4

# Predictions of a sample that name classes otherwise than by the labels of `pred_instances`.
_NOT_MAPPED = ('pred_sem_seg', 'pred_panoptic_seg', 'pred_label', 'pred_score')


def classes_of(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    """Return the class names that a training wrote into its checkpoint; ``None`` if there are none.

    MMDetection 3 keeps them in ``meta['dataset_meta']['classes']``, version 2 in
    ``meta['CLASSES']``.
    """
    meta = checkpoint.meta.get('dataset_meta')
    names: Any = meta.get('classes', meta.get('CLASSES')) if isinstance(meta, dict) else None
    names = names or checkpoint.meta.get('CLASSES')
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def class_order(checkpoint: Checkpoint, classes: Sequence[str]) -> list[int] | None:
    """Return the label in ``classes`` of each label of a checkpoint.

    Args:
        checkpoint: What was trained.
        classes: Class names of the data set.

    Returns:
        ``order[i]`` is the index in ``classes`` of the checkpoint's class ``i``; ``None`` where the
        order is the same, or the checkpoint does not name its classes.

    Raises:
        CheckpointMismatchError: if the names are not the same.
    """
    trained = classes_of(checkpoint)
    if trained is None or trained == tuple(classes):
        return None
    if sorted(trained) != sorted(classes) or len({*trained}) < len(trained):
        raise CheckpointMismatchError(
            f'checkpoint {checkpoint.source} was trained on other classes, {_few(trained)}, than '
            f'those of the data, {_few(classes)}: take the checkpoint of a training on these data'
        )
    return [list(classes).index(name) for name in trained]


def require_same_classes(checkpoint: Checkpoint, classes: Sequence[str]) -> None:
    """Refuse a checkpoint whose classes had other names or another order than the data of a config.

    Such a training cannot go on, and a folded model would carry the wrong names.

    Raises:
        CheckpointMismatchError: if they had.
    """
    if class_order(checkpoint, classes) is not None:
        raise CheckpointMismatchError(
            f'{_other_order(checkpoint, classes)}: take the data and the config of that training'
        )


def map_predictions(model: nn.Module, checkpoint: Checkpoint, classes: Sequence[str]) -> None:
    """Let a model that was trained with another order of the classes predict labels of this one.

    A warning says so. Weights stay as they are. Mapped are the labels of ``pred_instances``; a
    sample with semantic or panoptic maps, or with the label of an image, is refused.

    Args:
        model: A detector, or a model for test-time augmentation around one.
        checkpoint: What the model is to load.
        classes: Class names of the data set, by which its labels are numbered.

    Raises:
        CheckpointMismatchError: if the names are not the same; and by the model's forward pass, if
            it predicts what is not mapped.
    """
    order = class_order(checkpoint, classes)
    if order is None:
        return
    print_log(
        f'checkpoint {checkpoint.source}: its classes are in another order than those of the data; '
        'predictions are mapped by name',
        logger='current',
        level=logging.WARNING,
    )
    labels = torch.tensor(order)

    def renumber(_module: nn.Module, _args: Any, output: Any) -> Any:
        for sample in output if isinstance(output, list) else ():
            others = [name for name in _NOT_MAPPED if getattr(sample, name, None) is not None]
            if others:
                raise CheckpointMismatchError(
                    f'{_other_order(checkpoint, classes)}, and {others[0]} of its predictions, '
                    'unlike the labels of pred_instances, cannot be mapped by name: take the data '
                    'and the config of that training'
                )
            instances = getattr(sample, 'pred_instances', None)
            if instances is not None and 'labels' in instances:
                instances.labels = labels.to(instances.labels.device)[instances.labels]
        return output

    model.register_forward_hook(renumber)


def require_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into a model, and refuse it if a parameter of the model stays at random.

    Weights that the model does not have, such as a mask head's, are left out.

    Raises:
        CheckpointMismatchError: if a parameter is missing, or has another shape.
    """
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    weights = checkpoint.weights
    other_shape = [
        name
        for name, value in weights.items()
        if name in shapes and hasattr(value, 'shape') and tuple(value.shape) != shapes[name]
    ]
    kept = {name: value for name, value in weights.items() if name not in other_shape}
    # Loading, not comparing: modules rename keys of older versions while they load.
    missing = model.load_state_dict(kept, strict=False).missing_keys
    parameters = {name for name, _ in model.named_parameters()}
    random = [name for name in missing if name in parameters]
    if random:
        raise CheckpointMismatchError(
            f'checkpoint {checkpoint.source} is of another model: it has no weight for '
            f"{len(random)} of the model's {len(parameters)} parameters ({_few(random)}), which "
            'would stay at random: take the config that it was trained with'
        )


def _other_order(checkpoint: Checkpoint, classes: Sequence[str]) -> str:
    return (
        f'checkpoint {checkpoint.source} was trained with the classes in the order '
        f'{_few(classes_of(checkpoint) or ())}, but the data have {_few(classes)}'
    )


def _few(names: Sequence[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')
