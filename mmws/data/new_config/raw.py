"""Have a config read images with all of their bits and channels."""

from __future__ import annotations

from typing import Any

from mmws.config.tree import value_at

from ..coco_check import CocoReport
from ..raw_images import measure_raw
from .fit import Fit, change_step
from .model import merged


def read_raw(fit: Fit, report: CocoReport) -> None:
    """Change the loading, the normalization and the first convolution of a base.

    Args:
        fit: Gets the changes.
        report: On the training data, whose images are measured.

    Raises:
        ValueError: if images cannot be decoded or differ in the number of channels, or the model
            has no backbone.
    """
    if not value_at(fit.cfg, ('model', 'backbone')):
        raise ValueError('`raw_images` needs a base with a backbone, which gets in_channels')
    found = measure_raw(report.img_dir or '', report.file_names)
    replacement = {'type': 'mmws.LoadRawImage'}
    change_step(fit, 'LoadImageFromFile', lambda _: replacement)
    preprocessor: dict[str, Any] = {
        'type': 'mmws.RawImagePreprocessor',
        'mean': found.mean,
        'std': found.std,
        'bgr_to_rgb': False,
    }
    changes = {'data_preprocessor': preprocessor, 'backbone': {'in_channels': found.channels}}
    fit.model = merged(fit.model, changes)
    fit.notes.append(
        f'images of {found.channels} channel(s), values to {found.largest}: read whole, with the '
        'measured mean and standard deviation'
    )
