"""A folded detector of MMDetection as one file for another runtime: ONNX, or a program of PyTorch.

The file takes an image and returns detections. It holds the whole detector: normalization of the
image, network, suppression of boxes, masks of the size of the image.
"""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mmcv
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmws.checkpoints import Checkpoint
from mmws.compat.mmdet_export import paste_masks, recordable
from mmws.config import read_config

from .fold_files import load_weights
from .folding import fold, needing_mmws

FORMATS = {'.onnx': 'ONNX', '.pt2': 'torch.export'}
OUTPUTS = ('boxes', 'scores', 'labels', 'masks')

_OPSET = 17
_TOLERANCE = 1e-3


def export_files(
    config: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    size: tuple[int, int],
    images: Sequence[str | Path] = (),
) -> float:
    """Fold the detector of a config and a checkpoint, and write it as a file for other runtimes.

    Args:
        config: Config of the model, a path or ``mmdet::folder/name.py``.
        checkpoint: Its checkpoint.
        out: File to write, which ends in ``.onnx`` or ``.pt2``.
        size: Height and width of the images.
        images: Image files to try the file with, resized to ``size``, beside random images.

    Returns:
        As :func:`export_detector`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the checkpoint is not the config's, and as :func:`export_detector`.
    """
    _check_suffix(out)
    cfg = read_config(config)
    trained = Checkpoint.read(checkpoint)
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    model = MODELS.build(copy.deepcopy(cfg.model)).eval()
    load_weights(model, trained.weights, f'checkpoint {checkpoint}')
    return export_detector(model, out, size, [_read_image(path, size) for path in images])


def _read_image(path: str | Path, size: tuple[int, int]) -> Tensor:
    image = mmcv.imread(str(path))
    if image is None:
        raise ValueError(f'{path} is no image')
    resized = mmcv.imresize(image, size[::-1])
    return torch.from_numpy(resized.transpose(2, 0, 1)[None].astype('float32'))


def export_detector(
    model: nn.Module, out: str | Path, size: tuple[int, int], images: Sequence[Tensor] = ()
) -> float:
    """Fold a detector and write it as a file for other runtimes.

    The file has one input, ``images`` (1, 3, height, width): float32, 0 to 255, in the order of
    channels in which MMDetection reads them, which is BGR. Its outputs are those of one image by
    falling score: ``boxes`` (K, 4) in pixels as x1, y1, x2, y2; ``scores`` (K,); ``labels`` (K,)
    int64; and ``masks`` (K, height, width) bool if the detector has masks.

    The file is tried before it is put in its place: its detections on ``images`` and on random ones
    must be those of the detector.

    Args:
        model: A detector of MMDetection, folded or not. It stays as it is.
        out: File to write: ``.onnx`` for ONNX, ``.pt2`` for a program of ``torch.export``.
        size: Height and width of the images.
        images: Images to try the file with, (1, 3, height, width) like its input.

    Returns:
        Largest difference of boxes in pixels, and of scores, on the images that were tried.

    Raises:
        ValueError: if the model cannot be exported, or the file gives other detections; nothing is
            written then.
        ImportError: if ``out`` is ONNX, and onnx or onnxruntime is missing.
    """
    _check_suffix(out)
    out = Path(out)
    model = fold(model).eval().cpu()
    rest = needing_mmws(model)
    if rest:
        name, cls = next(iter(rest.items()))
        raise ValueError(f'{cls} ({name or "the model"}) has no plain form, and is not exported')
    detector = _Detector(model, size)
    generator = torch.Generator().manual_seed(0)
    random = [torch.rand(1, 3, *size, generator=generator, device='cpu') * 255 for _ in range(2)]
    trials = [*images, *random]
    write = _write_onnx if out.suffix == '.onnx' else _write_program
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        draft = Path(folder, out.name)
        with torch.no_grad():
            expected = [detector.detections(image) for image in trials]
            run = write(detector, trials[0], draft)
            difference = max(_difference(run(i), e) for i, e in zip(trials, expected))
        if not difference <= _TOLERANCE:
            raise ValueError(
                f'{type(model).__name__} cannot be exported: the file gives other detections than '
                f'the model, by {difference:.1e}'
            )
        os.replace(draft, out)
    return difference


def _check_suffix(out: str | Path) -> None:
    if Path(out).suffix not in FORMATS:
        known = ', '.join(f'{suffix} ({name})' for suffix, name in FORMATS.items())
        raise ValueError(f'{out} has no known format: take one of {known}')


class _Detector(nn.Module):
    """A detector from images as they are read to the detections of the first of them."""

    def __init__(self, model: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.size = size
        divisor = model.data_preprocessor.pad_size_divisor
        self.padded = tuple(-(-side // divisor) * divisor for side in size)
        roi_settings = getattr(getattr(model, 'roi_head', None), 'test_cfg', None) or {}
        self.threshold = roi_settings.get('mask_thr_binary', 0.5)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self._predict(self._prepared(images))
        kept = (found.scores > 0).nonzero()[:, 0]
        boxes = found.bboxes[kept]
        outputs = boxes, found.scores[kept], found.labels[kept]
        if 'masks' not in found:
            return outputs
        return *outputs, paste_masks(found.masks[kept], boxes, self.size, self.threshold)

    def detections(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what MMDetection's own code finds, in the form of :meth:`forward`."""
        found = self._predict(self._prepared(images))
        return tuple(found[key] for key in ('bboxes', 'scores', 'labels', 'masks') if key in found)

    def _prepared(self, images: Tensor) -> Tensor:
        preprocessor: Any = self.model.data_preprocessor
        if preprocessor._channel_conversion:
            images = images.flip(1)
        if preprocessor._enable_normalize:
            images = (images - preprocessor.mean) / preprocessor.std
        bottom, right = (p - s for p, s in zip(self.padded, self.size))
        return F.pad(images, (0, right, 0, bottom), value=preprocessor.pad_value)

    def _predict(self, images: Tensor) -> Any:
        sample = DetDataSample(
            metainfo=dict(
                img_id=0, img_path='', ori_shape=self.size, img_shape=self.size,
                pad_shape=self.padded, batch_input_shape=self.padded, scale_factor=(1.0, 1.0),
                flip=False, flip_direction=None,
            )
        )  # fmt: skip
        return self.model.predict(images, [sample], rescale=False)[0].pred_instances


Run = Callable[[Tensor], Sequence[Tensor]]


def _write_onnx(detector: _Detector, image: Tensor, path: Path) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError('ONNX needs onnx and onnxruntime: pip install "mmws[export]"') from error
    masks = getattr(detector.model, 'with_mask', False)
    names = OUTPUTS if masks else OUTPUTS[:3]

    def record() -> None:
        # The exporter that records a run. The one that reads Python code (`dynamo=True`) would
        # have to know how many boxes there are.
        torch.onnx.export(
            detector, (image,), str(path), dynamo=False, opset_version=_OPSET,
            input_names=['images'], output_names=list(names),
            dynamic_axes={name: {0: 'detections'} for name in names},
        )  # fmt: skip

    _record(detector, record)
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return lambda images: [
        torch.as_tensor(o) for o in session.run(None, {'images': images.numpy()})
    ]


def _write_program(detector: _Detector, image: Tensor, path: Path) -> Run:
    _record(detector, lambda: torch.export.save(torch.export.export(detector, (image,)), path))
    return torch.export.load(path).module()


def _record(detector: _Detector, record: Callable[[], Any]) -> None:
    """Call ``record`` with MMDetection's functions in the form that can be recorded.

    Raises:
        ValueError: in one line, whatever the exporter or the model raises.
    """
    with recordable(detector.model), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of constants, which sizes of images are meant to be
        try:
            record()
        except Exception as error:  # exporters pass on what the model raises, of any kind
            reason = ' '.join(str(error).split())[:300]
            raise ValueError(
                f'{type(detector.model).__name__} cannot be exported: '
                f'{type(error).__name__}: {reason}'
            ) from error


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference of boxes and scores; infinity for other labels or masks."""
    if [t.shape for t in found] != [t.shape for t in expected]:
        return float('inf')
    if not len(expected[0]):
        return 0.0
    if not torch.equal(found[2], expected[2]):
        return float('inf')
    if len(expected) > 3 and (found[3] ^ expected[3]).float().mean() > _TOLERANCE:
        return float('inf')
    return max(float((a - b).abs().max()) for a, b in zip(found[:2], expected[:2]))
