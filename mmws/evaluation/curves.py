"""Precision over recall, as a picture."""

from pathlib import Path
from typing import Union

import numpy as np

from mmws.files import replacing

from .coco_eval import CocoResult


def require_picture(path: Union[str, Path]) -> None:
    """Check that curves can be drawn into ``path``.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if the suffix is of no format that matplotlib writes.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('pr_curves needs matplotlib: run `pip install "mmws[eval]"`') from None
    if Path(path).suffix[1:].lower() not in Figure().canvas.get_supported_filetypes():
        raise ValueError(
            f'pr_curves={str(path)!r}: the name must end in that of a picture format, such as .png'
        )


def draw_pr_curves(results: 'dict[str, CocoResult]', path: Union[str, Path]) -> None:
    """Draw precision over recall: the mean of all classes at each IoU, each class at the first.

    Of any size of object, with the most detections per image.

    Args:
        results: Name of each panel, e.g. ``'bbox'``, and what it shows.
        path: Picture to write; the suffix decides the format.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # without pyplot: Agg, and no global state

    figure = Figure(figsize=(6 * len(results), 5), dpi=120, layout='constrained')
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for axis, (name, result) in zip(axes, results.items()):
        colours = colormaps['viridis'](np.linspace(0, 0.9, len(result.iou_thrs)))
        precision = result.precision[..., 0, -1]
        known = precision[:, :, (precision > -1).all((0, 1))]
        recalls = np.linspace(0, 1, precision.shape[1])
        axis.plot(recalls, known[0], color='0.8', linewidth=0.6)
        if known.size:
            for iou, colour, curve in zip(result.iou_thrs, colours, known.mean(2)):
                label = f'IoU {iou:.2f}: AP {curve.mean():.3f}'
                axis.plot(recalls, curve, color=colour, label=label)
            axis.legend(fontsize='small')
        axis.set(title=name, xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(alpha=0.3)

    with replacing(Path(path)) as draft:
        figure.savefig(draft)
