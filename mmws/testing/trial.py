"""Run any detector of MMDetection on tiny random images."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample, ReIDDataSample, TrackDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData, LabelData, PixelData
from torch import Tensor, nn

from mmws.config.tree import dotted, kind, walk

from .compare import max_difference, tensors_of

# Models that halve the image often, or are made for one size, need the larger ones.
SIZES = (64, 128, 320, 512)

# Boxes as fractions of the image. Their sizes differ, so that detectors assign them to different
# levels of the pyramid.
_BOXES = ((0.1, 0.1, 0.9, 0.8), (0.3, 0.2, 0.6, 0.7), (0.55, 0.5, 0.8, 0.75))


class Run(NamedTuple):
    """How a model can be run: image size, mode of ``forward``, and whether it can be trained."""

    size: int
    mode: str
    trains: bool


def find_run(model: nn.Module, config: dict) -> Run:
    """Return the smallest run that works.

    Args:
        model: The model. Afterwards its parameters have gradients, and running statistics differ.
        config: Its config.

    Raises:
        Exception: what the model raises on the smallest images, if it raises on all sizes.
    """
    first: Exception | None = None
    for size in SIZES:
        # An error of this module must not pass for one of the model: make the data outside of try.
        training_batch, batch = tiny_batch(config, size, training=True), tiny_batch(config, size)
        try:
            trains = _has_training_step(model, training_batch)
            mode = _find_mode(model, batch)
        except Exception as error:  # Images too small for a model make it raise any kind of error.
            first = first or error
        else:
            return Run(size, mode, trains)
    assert first is not None  # because SIZES is not empty
    raise first


def _find_mode(model: nn.Module, batch: dict[str, Any]) -> str:
    """Return a mode of ``forward`` that gives outputs to compare, raw ones if possible."""
    try:
        outputs = _infer(model, batch, 'tensor')
    except Exception:  # A model without this mode raises any kind of error.
        outputs = None
    if any(t.numel() for t in tensors_of(outputs)):
        return 'tensor'
    _infer(model, batch, 'predict')
    return 'predict'


def train_step(model: nn.Module, config: dict, size: int) -> None:
    """Compute losses and gradients on a batch of two images.

    Raises:
        FloatingPointError: if they are not finite.
    """
    _train_step(model, tiny_batch(config, size, training=True))


def training_loss(model: Any, config: dict, size: int) -> Tensor:
    """Return the sum of the losses, a scalar with its graph, on the batch of :func:`train_step`.

    Gradients are set to None before; random numbers begin at the same seed in every call.
    """
    return _loss(model, tiny_batch(config, size, training=True))


def _train_step(model: nn.Module, batch: dict[str, Any]) -> None:
    loss = _loss(model, batch)
    if not loss.isfinite():
        raise FloatingPointError(f'the loss is {loss.item()}')
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise FloatingPointError(f'the gradient of {name} is not finite')


def _loss(model: Any, batch: dict[str, Any]) -> Tensor:
    _seed()
    model.train()
    model.zero_grad()
    # Losses and assigners with a warm-up ask the hub how far the training is.
    for counter in ('iter', 'epoch'):
        MessageHub.get_current_instance().update_info(counter, 0)
    data = model.data_preprocessor(batch, True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    return loss


def infer(model: nn.Module, config: dict, size: int, mode: str) -> Any:
    """Return the outputs of a model in evaluation on a tiny batch.

    Args:
        model: The model.
        config: Its config.
        size: Height and width of the images.
        mode: Mode of its ``forward``: ``'tensor'`` or ``'predict'``.
    """
    return _infer(model, tiny_batch(config, size), mode)


@torch.no_grad()
def _infer(model: Any, batch: dict[str, Any], mode: str) -> Any:
    _seed()
    model.eval()
    # Preprocessors and losses may change samples in place, and a batch is used more than once.
    data = model.data_preprocessor(copy.deepcopy(batch), False)
    return model(**data, mode=mode)


def compare_outputs(first: nn.Module, second: nn.Module, config: dict) -> float:
    """Return the largest difference of the raw outputs and the predictions of two models.

    Args:
        first: A model.
        second: A model that should compute the same.
        config: Config of either.

    Raises:
        Exception: what the first model raises on the smallest images, if it raises on all sizes.
    """
    smallest: Exception | None = None
    for size in SIZES:
        batch = tiny_batch(config, size)
        try:
            modes = {_find_mode(first, batch), 'predict'}
        except Exception as error:  # Images too small for a model make it raise any kind of error.
            smallest = smallest or error
            continue
        return max(
            max_difference(_infer(second, batch, mode), _infer(first, batch, mode))
            for mode in modes
        )
    assert smallest is not None  # because SIZES is not empty
    raise smallest


def _has_training_step(model: nn.Module, batch: dict[str, Any]) -> bool:
    try:
        _train_step(model, batch)
    except NotImplementedError:  # Trackers raise it: their parts are trained separately.
        return False
    return True


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def tiny_batch(model: dict, size: int, training: bool = False) -> dict:
    """Return a batch of images with annotations, the same at every call.

    Args:
        model: Config of the model, which decides which annotations the batch has.
        size: Height and width of the images.
        training: Whether the batch is for training.

    Returns:
        A dict with ``inputs``, two images (3, size, size) of uint8, one image where the model
        predicts no more at a time, or videos of two frames (2, 3, size, size); and
        ``data_samples`` with boxes, masks, semantic segmentation and proposals.
    """
    generator = torch.Generator().manual_seed(0)
    preprocessor = model.get('data_preprocessor') or {}
    if kind(preprocessor) == 'TrackDataPreprocessor' and not (
        training and preprocessor.get('use_det_processor')
    ):
        videos = 2 if training else 1  # Trackers follow one video at a time.
        return {
            'inputs': list(_random_images(generator, videos, 2, 3, size, size)),
            'data_samples': [_track_sample(model, size) for _ in range(videos)],
        }
    if model['type'] == 'BaseReID':
        height, width = 4 * size, 2 * size  # The pooling is made for images of persons.
        return {
            'inputs': list(_random_images(generator, 4, 3, height, width)),
            'data_samples': [_reid_sample(identity, height, width) for identity in (0, 0, 1, 1)],
        }
    images = 2 if training or not _predicts_single_images(model) else 1
    channels = (model.get('backbone') or {}).get('in_channels', 3)
    batch = {
        'inputs': list(_random_images(generator, images, channels, size, size)),
        'data_samples': [_sample(model, size) for _ in range(images)],
    }
    if kind(preprocessor) == 'MultiBranchDataPreprocessor' and training:
        # Semi-supervised models get a batch for each of their branches.
        branches = ('sup', 'unsup_teacher', 'unsup_student')
        return {
            key: {branch: copy.deepcopy(value) for branch in branches}
            for key, value in batch.items()
        }
    return batch


def _random_images(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def _sample(model: dict, size: int) -> DetDataSample:
    sample = DetDataSample(
        metainfo=dict(
            img_id=0,
            img_path='random.png',
            img_shape=(size, size),
            ori_shape=(size, size),
            scale_factor=(1.0, 1.0),
            flip=False,
            flip_direction=None,
            border=np.array([0, size, 0, size]),  # CenterNet's crop
            homography_matrix=np.eye(3, dtype=np.float32),
            frame_id=0,
        )
    )
    boxes = torch.tensor(_BOXES) * size
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long)
    )
    if _speaks_of_masks(model):
        sample.gt_instances.masks = BitmapMasks(list(_boxes_as_masks(boxes, size)), size, size)
    sample.ignored_instances = sample.gt_instances[:0]
    stride = _semantic_stride(model)
    semantic = torch.zeros(1, size // stride, size // stride, dtype=torch.uint8)
    semantic[:, : size // stride // 2] = 1
    sample.gt_sem_seg = PixelData(sem_seg=semantic)
    if 'roi_head' in model and 'rpn_head' not in model:
        sample.proposals = InstanceData(bboxes=boxes.clone(), scores=torch.ones(len(boxes)))
    return sample


def _predicts_single_images(config: Any) -> bool:
    """Whether a model predicts one image at a time: MMCV's masked convolution takes no more."""
    heads = ('GARPNHead', 'GARetinaHead')
    return any(kind(value) in heads for _, value in walk(config))


def _boxes_as_masks(boxes: torch.Tensor, size: int) -> Iterator[np.ndarray]:
    for x1, y1, x2, y2 in boxes.round().int().tolist():
        mask = np.zeros((size, size), np.uint8)
        mask[y1:y2, x1:x2] = 1
        yield mask


def _speaks_of_masks(config: Any) -> bool:
    """Return whether a config has a key about masks; some models fail if they get unused masks."""
    return any('mask' in dotted(path) for path, _ in walk(config))


def _semantic_stride(model: dict) -> int:
    """Return the stride of the semantic labels.

    The semantic branch of a hybrid task cascade takes labels of the size of its features, and 1 is
    right for all other models.
    """
    roi_head = model.get('roi_head') or {}
    extractor = roi_head.get('semantic_roi_extractor')
    return extractor['featmap_strides'][0] if extractor else 1


def _reid_sample(identity: int, height: int, width: int) -> ReIDDataSample:
    sample = ReIDDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width)))
    sample.gt_label = LabelData(label=torch.tensor([identity]))
    return sample


def _track_sample(model: dict, size: int) -> TrackDataSample:
    frames = [_sample(model, size) for _ in range(2)]
    for index, frame in enumerate(frames):
        frame.set_metainfo(dict(frame_id=index, is_video_data=True, ori_video_length=2))
        frame.gt_instances.instances_ids = torch.arange(len(frame.gt_instances))
    sample = TrackDataSample(metainfo=dict(key_frames_inds=[0], ref_frames_inds=[1]))
    sample.video_data_samples = frames
    return sample
