"""Plots of precision over recall."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmws.files import replacing

from .coco_eval import CocoResult


def require_picture(path: str | Path) -> None:
    """Check that :func:`draw_pr_curves` can write to ``path``.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if the suffix stands for no format that matplotlib writes.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('pr_curves needs matplotlib: run `pip install "mmws[eval]"`') from None
    if Path(path).suffix[1:].lower() not in Figure().canvas.get_supported_filetypes():
        raise ValueError(
            f'pr_curves={str(path)!r}: the name must end in that of a picture format, such as .png'
        )


def draw_pr_curves(results: dict[str, CocoResult], path: str | Path) -> None:
    """Draw precision over recall, for objects of all sizes and the largest limit of detections.

    A panel has a coloured curve for each IoU threshold, the mean of all classes, and a grey curve
    for each class at the first threshold.

    Args:
        results: The result that a panel shows, by the name of the panel, such as ``'bbox'``.
        path: Picture to write; the suffix decides the format.
    """
    from matplotlib import colormaps

    # Figures of pyplot would need a display or a backend, and stay in its global state.
    from matplotlib.figure import Figure

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
