"""Colours for the classes of a data set, and for the lines of a chart."""

from __future__ import annotations

import colorsys

# The palette of Okabe and Ito, told apart by colour-blind readers; without its pale yellow.
OKABE_ITO = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#999999')


def make_palette(count: int) -> list[tuple[int, int, int]]:
    """Return ``count`` RGB colours (0-255) for drawing, neighbours far apart in hue."""
    # Steps of the golden ratio stay away from all earlier hues for as long as that is possible;
    # the brightness tells apart what many classes bring together.
    hues = [(i * 0.618034) % 1 for i in range(count)]
    colours = [colorsys.hsv_to_rgb(hue, 0.75, (1.0, 0.7)[i % 2]) for i, hue in enumerate(hues)]
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colours]
