"""The parts of a config that read raw images: the loader and the normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine import fileio

from mmws.registry import MODELS, TRANSFORMS

from .raw_images import decode_raw


@TRANSFORMS.register_module()
class LoadRawImage(LoadImageFromFile):
    """Load an image with all of its bits and channels.

    ``dict(type='mmws.LoadRawImage')`` in place of ``LoadImageFromFile``. ``img`` is of shape
    (H, W, C) and type float32, see :func:`mmws.data.raw_images.decode_raw`; no EXIF orientation is
    applied.

    Raises:
        ValueError: if a file cannot be decoded; it names the file.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        path = results['img_path']
        try:
            image = decode_raw(fileio.get(path, backend_args=self.backend_args))
        except ValueError as error:
            raise ValueError(f'image {path}: {error}') from error
        results['img'] = image.astype(np.float32)
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


@MODELS.register_module()
class RawImagePreprocessor(DetDataPreprocessor):
    """MMDetection's preprocessor for images of any number of channels.

    Args:
        mean: Mean of each channel, C numbers, in the order of the file.
        std: Standard deviation of each channel, C numbers.
        **kwargs: Arguments of ``mmdet.DetDataPreprocessor`` but for the conversion of colours.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], **kwargs: Any) -> None:
        if len(mean) != len(std):
            raise ValueError(f'mean has {len(mean)} channels and std has {len(std)}')
        for name in ('bgr_to_rgb', 'rgb_to_bgr'):
            if kwargs.pop(name, False):
                raise ValueError(f'{name}: raw images keep the order of their channels')
        # MMEngine takes one value or three, and normalizes by these buffers, whatever their number.
        super().__init__(mean=[0], std=[1], **kwargs)
        for name, values in (('mean', mean), ('std', std)):
            self.register_buffer(name, torch.tensor(values).float().view(-1, 1, 1), False)
