"""Predict on images and videos: drawn results, and one file of results in COCO format."""

import glob
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from pycocotools import mask as mask_utils
from tqdm import tqdm

from mmws.checkpoints import Checkpoint, check_weights
from mmws.checkpoints.classes import require_weights
from mmws.config import load_config
from mmws.config.tree import other_library
from mmws.data.preflight import head_classes
from mmws.data.raw_images import decode_raw, reads_raw, viewable
from mmws.files import replacing
from mmws.training_step import hold_weights

from .drawing import SCORE_THRESHOLD, draw, make_visualizer

if TYPE_CHECKING:
    from mmdet.apis import DetInferencer
    from mmdet.structures import DetDataSample

StrPath = str | Path

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.mpg', '.mpeg', '.m4v', '.wmv')
# Formats that drawn images keep; those of others are written as PNG.
_WRITTEN_AS_READ = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
_FALLBACK_FPS = 25.0  # of a video that does not say


class Predictions(NamedTuple):
    """What :func:`predict` has written.

    Attributes:
        json_path: The results in COCO format.
        num_images: Images and frames of videos in it.
        failed: Inputs that could not be read.
    """

    json_path: Path
    num_images: int
    failed: 'list[Path]'


def find_inputs(patterns: Sequence[StrPath]) -> 'list[Path]':
    """Return the images and videos that a command line names, each once.

    Args:
        patterns: Files, which are taken whatever their suffix; folders, whose images at any depth
            are taken; globs, ``**`` included, of either.

    Raises:
        FileNotFoundError: if a pattern leads to no file.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        names = (
            [str(pattern)] if os.path.exists(pattern) else glob.glob(str(pattern), recursive=True)
        )
        if not names:
            raise FileNotFoundError(f'{pattern}: no such file or folder, and no file matches it')
        paths = [path for name in sorted(names) for path in _files(Path(name))]
        if not paths:
            raise FileNotFoundError(f'{pattern}: no image in it ({", ".join(IMAGE_SUFFIXES)})')
        for path in paths:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _files(path: Path) -> 'list[Path]':
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.rglob('*') if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def load_detector(
    config: StrPath | None,
    checkpoint: StrPath,
    device: str | None = None,
    trust_checkpoint: bool = False,
) -> 'DetInferencer':
    """Build a detector that predicts, with its class names.

    Args:
        config: As for :func:`mmws.config.load_config`, or a :class:`Config`. ``None``: the one
            that MMEngine has kept in the checkpoint.
        checkpoint: Weights. Class names are those of its ``meta``, else those of the config.
        device: Such as ``'cuda:1'`` or ``'cpu'``; ``None`` for the best there is.
        trust_checkpoint: Whether the config may come from the checkpoint: reading it runs it as
            Python, which the safe loading of weights rules out otherwise.

    Returns:
        MMDetection's ``DetInferencer``.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if config, checkpoint or device do not fit.
    """
    _check_device(device)
    trained = Checkpoint.read(checkpoint)
    if isinstance(config, Config):
        cfg = Config(config.to_dict())
    elif config is not None:
        cfg = load_config(config)
    else:
        cfg = _config_of(trained, trust_checkpoint)
    library = other_library(cfg)
    if library is not None:
        raise ValueError(
            f'config {config or checkpoint} is of {library}, whose own inferencer predicts with it '
            'once mmws is imported; detectors of MMDetection can be predicted with here'
        )
    from mmdet.apis import DetInferencer
    from mmdet.registry import DATASETS

    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    if not dataset or 'model' not in cfg:
        raise ValueError(f'config {config or checkpoint} lacks model or test_dataloader.dataset')
    while 'pipeline' not in dataset and ('dataset' in dataset or 'datasets' in dataset):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    # The inferencer wants a plain data set, and any visualizer.
    cfg.test_dataloader.dataset = dataset
    cfg.visualizer = dict(type='DetLocalVisualizer')
    raw = reads_raw(dataset.get('pipeline') or ())
    if raw:
        # The inferencer puts a loader of arrays here, whatever bits and channels they have.
        dataset.pipeline = [
            dict(type='LoadImageFromFile') if reads_raw([step]) else step
            for step in dataset.pipeline
        ]
    detector = DetInferencer(cfg, str(checkpoint), device=device, show_progress=False)
    detector.reads_raw = raw
    check_weights(detector.model, trained.weights)
    require_weights(detector.model, trained)
    hold_weights(detector.model)  # the detector predicts, and is not trained

    meta = detector.model.dataset_meta
    if not {'dataset_meta', 'CLASSES'} & trained.meta.keys():
        # The inferencer assumes COCO's.
        meta['classes'] = DATASETS.build(dict(dataset, lazy_init=True)).metainfo['classes']
    for key, num_classes in head_classes(cfg.model):
        # Models that read have as many as words fit in a sentence.
        if num_classes > len(meta['classes']) and 'language_model' not in cfg.model:
            raise ValueError(
                f'{key} is {num_classes}, but only {len(meta["classes"])} class names are known: '
                f'take the config that checkpoint {checkpoint} was trained with'
            )
    detector.visualizer = make_visualizer(meta)
    return detector


def _check_device(device: str | None) -> None:
    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except Exception as error:  # each backend has errors of its own
        reason = str(error).splitlines()[0]
        raise ValueError(f'device {device} cannot be used here: {reason}') from error


def _config_of(checkpoint: Checkpoint, trusted: bool) -> Config:
    if checkpoint.config_text is None:
        raise ValueError(f'checkpoint {checkpoint.source} holds no config: give one, `config`')
    if not trusted:
        raise ValueError(
            f'checkpoint {checkpoint.source} holds its config, which would be run as Python: give '
            '`config`, or `trust_checkpoint=True` if you know where the checkpoint comes from'
        )
    try:
        return Config.fromstring(checkpoint.config_text, '.py')
    except Exception as error:  # a config is a program
        raise ValueError(
            f'the config in checkpoint {checkpoint.source} cannot be read: {error}'
        ) from error


def predict(
    detector: 'DetInferencer',
    inputs: Sequence[Path],
    out_dir: StrPath,
    score_threshold: float = SCORE_THRESHOLD,
) -> Predictions:
    """Predict on images and videos.

    Writes, replacing what an earlier run has left::

        out_dir/pictures/...        each input with what was found in it, as MP4 for a video, at
                                    its path relative to the folder that all inputs have in common
        out_dir/predictions.json    all predictions, also those below the threshold

    The JSON file has COCO's ``images``, ``annotations`` with a ``score``, and ``categories``,
    numbered from 1 in the order of the detector's classes; a video's frames are images with the
    ``file_name`` of the video and a ``frame_index`` from 0. An interrupted run leaves the results
    up to there.

    Args:
        detector: From :func:`load_detector`.
        inputs: From :func:`find_inputs`.
        out_dir: Folder to write.
        score_threshold: Predictions below it are not drawn.

    Raises:
        ValueError: if a drawn image would replace an input; nothing is written.
    """
    out_dir = Path(out_dir)
    targets = _targets(inputs, out_dir / 'pictures')
    results = _CocoResults(detector)
    raw = getattr(detector, 'reads_raw', False)
    read = _read_raw if raw else _read
    failed = []

    def predict_one(image: np.ndarray, path: Path, **extra: Any) -> np.ndarray:
        """Return the drawn image, BGR."""
        sample = detector([image], return_datasamples=True)['predictions'][0]
        sample.pop('gt_instances', None)  # packed by the pipeline, empty
        results.add(sample, image.shape[:2], path, **extra)
        shown = viewable(image) if raw else image
        return draw(detector.visualizer, shown[..., ::-1], sample, score_threshold)[..., ::-1]

    try:
        with tqdm(inputs, unit='file', desc='predict', disable=None) as progress:
            for path in progress:
                is_video = path.suffix.lower() in VIDEO_SUFFIXES
                try:
                    if is_video:
                        _draw_video(path, targets[path], predict_one)
                    else:
                        _draw_image(path, targets[path], predict_one, read)
                except _UnreadableError as error:
                    failed.append(path)
                    progress.write(f'error: {error}', file=sys.stderr)
    finally:
        json_path = out_dir / 'predictions.json'
        with replacing(json_path) as draft:
            draft.write_text(json.dumps(results.content) + '\n', encoding='utf-8')
    return Predictions(json_path, len(results.content['images']), failed)


def _targets(inputs: Sequence[Path], folder: Path) -> 'dict[Path, Path]':
    """Return where each drawn input goes: each to a place of its own, none to an input's."""
    root = Path(os.path.commonpath([os.path.abspath(path.parent) for path in inputs]))
    targets: dict[Path, Path] = {}
    taken = set()
    originals = {path.resolve() for path in inputs}
    for path in inputs:
        kept = ('.mp4',) if path.suffix.lower() in VIDEO_SUFFIXES else _WRITTEN_AS_READ
        target = folder / Path(os.path.abspath(path)).relative_to(root)
        while target.suffix.lower() not in kept or target in taken:
            target = target.with_name(target.name + ('.mp4' if '.mp4' in kept else '.png'))
        if target.resolve() in originals:
            raise ValueError(f'{path} would be replaced by its drawn copy: give another `out_dir`')
        taken.add(target)
        targets[path] = target
    return targets


class _UnreadableError(Exception):
    """An input cannot be read; the others go on."""


def _read(path: Path) -> np.ndarray | None:
    """Return an image, BGR, uint8, (H, W, 3); ``None`` if it cannot be decoded."""
    try:
        return mmcv.imread(str(path))
    except cv2.error:  # an empty file
        return None


def _read_raw(path: Path) -> np.ndarray | None:
    """Return an image with all its bits and channels, float32, (H, W, C); ``None`` as above."""
    try:
        return decode_raw(path.read_bytes()).astype(np.float32)
    except ValueError:
        return None


def _draw_image(
    path: Path,
    target: Path,
    predict_one: 'Callable[..., np.ndarray]',
    read: 'Callable[[Path], np.ndarray | None]',
) -> None:
    try:
        image = read(path)
    except OSError as error:
        raise _UnreadableError(f'{path} cannot be read: {error.strerror or error}') from error
    if image is None:
        raise _UnreadableError(f'{path} cannot be read: it is no image, or damaged')
    drawn = predict_one(image, path)
    with replacing(target) as draft:
        mmcv.imwrite(drawn, str(draft))


def _draw_video(path: Path, target: Path, predict_one: 'Callable[..., np.ndarray]') -> None:
    capture = cv2.VideoCapture(str(path))
    frames = _frames(capture)
    first = next(frames, None)
    if first is None:
        raise _UnreadableError(f'{path} cannot be read: it is no video, or damaged')
    fps = capture.get(cv2.CAP_PROP_FPS) or _FALLBACK_FPS
    total = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) or None
    with replacing(target) as draft:
        drawn = predict_one(first, path, frame_index=0)
        size = drawn.shape[1::-1]
        writer = cv2.VideoWriter(str(draft), cv2.VideoWriter.fourcc(*'mp4v'), fps, size)
        if not writer.isOpened():
            raise OSError(
                f'{target} cannot be written: is the disk full, or is OpenCV without MP4?'
            )
        try:
            writer.write(np.ascontiguousarray(drawn))
            progress = tqdm(frames, path.name, total, initial=1, leave=False, disable=None)
            for index, frame in enumerate(progress, start=1):
                drawn = predict_one(frame, path, frame_index=index)
                writer.write(np.ascontiguousarray(drawn))
        finally:
            writer.release()
            capture.release()


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """Yield frames in order, BGR, uint8, of shape (H, W, 3)."""
    while True:
        found, frame = capture.read()
        if not found:
            return
        yield frame


class _CocoResults:
    def __init__(self, detector: 'DetInferencer') -> None:
        self.detector = detector
        classes = detector.model.dataset_meta['classes']
        self.content: dict[str, list] = {
            'images': [],
            'annotations': [],
            'categories': [{'id': i, 'name': name} for i, name in enumerate(classes, start=1)],
        }

    def add(
        self, sample: 'DetDataSample', size: 'tuple[int, int]', path: Path, **extra: Any
    ) -> None:
        """Add the predictions on an image of ``size`` (height, width)."""
        images, annotations = self.content['images'], self.content['annotations']
        image_id = len(images) + 1
        height, width = size
        image = {'id': image_id, 'file_name': path.as_posix(), 'width': width, 'height': height}
        images.append({**image, **extra})

        found = self.detector.pred2dict(sample)
        masks = found.get('masks') or [None] * len(found['labels'])
        for label, score, box, mask in zip(
            found['labels'], found['scores'], found['bboxes'], masks
        ):
            left, top, right, bottom = box
            bbox = [round(v, 2) for v in (left, top, right - left, bottom - top)]
            annotation = {
                'id': len(annotations) + 1,
                'image_id': image_id,
                'category_id': label + 1,
                'bbox': bbox,
                'area': round(bbox[2] * bbox[3], 2),
                'iscrowd': 0,
                'score': round(score, 5),
            }
            if mask is not None:
                annotation['segmentation'] = mask
                annotation['area'] = int(mask_utils.area(mask))
            annotations.append(annotation)
