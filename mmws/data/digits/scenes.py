"""Draw scenes: textured digits on textured backgrounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from .settings import DigitsConfig


class Scene(NamedTuple):
    """One image with its instances.

    Attributes:
        name: File stem.
        image: RGB, uint8, of shape (H, W, 3).
        instance_map: uint8 of shape (H, W): 0 is background, ``k`` the visible part of the k-th
            instance. So masks are disjoint.
        labels: The digit of each instance, 0..9.
        samples: The index of each instance into ``load_digits``.
    """

    name: str
    image: np.ndarray
    instance_map: np.ndarray
    labels: list[int]
    samples: list[int]

    def masks(self) -> Iterator[np.ndarray]:
        """Yield the boolean mask, of shape (H, W), of each instance."""
        for index in range(1, len(self.labels) + 1):
            yield self.instance_map == index


def load_glyphs() -> tuple[np.ndarray, np.ndarray]:
    """Return ink in [0, 1] of shape (1797, 8, 8), float32, and digits of shape (1797,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError(
            'the handwritten digits come with scikit-learn: run `pip install "mmws[demo]"`'
        ) from None
    data = load_digits()
    return (data.images / 16).astype(np.float32), data.target


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return multi-octave value noise over a sinusoidal grating, in [0, 1], of shape (H, W)."""
    noise = np.zeros((height, width), np.float32)
    cell = rng.uniform(16, 64)
    for octave in range(3):
        step = cell / 2**octave
        shape = math.ceil(height / step) + 1, math.ceil(width / step) + 1
        lattice = rng.random(shape, dtype=np.float32)
        noise += 0.5**octave * cv2.resize(lattice, (width, height), interpolation=cv2.INTER_CUBIC)
    noise -= noise.min()
    noise /= max(noise.max(), 1e-6)

    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi)
    period = rng.uniform(6, 48)
    y, x = np.mgrid[:height, :width]
    wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period + phase)
    share = rng.uniform(0, 0.6)
    return (1 - share) * noise + share * (0.5 + 0.5 * wave)


def _paint(
    rng: np.random.Generator, colour: np.ndarray, contrast: float, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a texture around ``colour``, of shape (H, W, 3), and its two end colours (2, 3)."""
    direction = rng.normal(size=3)
    direction *= contrast / 2 / np.linalg.norm(direction)
    ends = np.stack([colour - direction, colour + direction])
    blend = _texture(rng, height, width)[..., None]
    return (1 - blend) * ends[0] + blend * ends[1], ends


def _digit_colour(
    rng: np.random.Generator, backdrop: np.ndarray, config: DigitsConfig
) -> np.ndarray:
    """Return the first of some random colours with contrast enough, else that with most."""
    colours = rng.uniform(*config.digit_range, size=(64, 3))
    contrast = np.linalg.norm(colours[:, None] - backdrop, axis=2).min(axis=1)
    enough = contrast >= config.min_contrast
    return colours[enough.argmax() if enough.any() else contrast.argmax()]


def _render_glyph(
    rng: np.random.Generator, glyph: np.ndarray, config: DigitsConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return opacity in [0, 1] and the boolean mask of an upscaled, rotated and sheared glyph.

    Both have the shape of the mask's bounding box.
    """
    size = rng.uniform(*config.digit_size)
    angle = math.radians(rng.uniform(-config.max_rotation, config.max_rotation))
    shear = rng.uniform(-config.max_shear, config.max_shear)

    # Strokes touch the border of the 8x8 image: pad it, or they would end in a straight cut.
    padded = np.pad(glyph, 2)
    fine = cv2.resize(padded, None, fx=16, fy=16, interpolation=cv2.INTER_CUBIC)
    cos, sin = math.cos(angle), math.sin(angle)
    linear = size / (16 * 8) * np.array([[cos, -sin], [sin, cos]]) @ [[1, shear], [0, 1]]
    side = math.ceil(2 * size)
    centre = (np.array(fine.shape) - 1) / 2
    affine = np.column_stack([linear, (side - 1) / 2 - linear @ centre])
    ink = cv2.warpAffine(fine, affine, (side, side), flags=cv2.INTER_LINEAR)

    # About one pixel from clear to opaque, whatever the size.
    opacity = np.clip(0.5 + (ink - 0.4) * size / 8, 0, 1)
    mask = opacity > 0.5
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    box = np.s_[top : top + height, left : left + width]
    return opacity[box], mask[box]


def _render_scene(
    name: str,
    rng: np.random.Generator,
    glyphs: np.ndarray,
    digits: np.ndarray,
    pool: np.ndarray,
    config: DigitsConfig,
) -> Scene:
    """Draw a scene of samples out of ``pool``, indices into ``glyphs`` and ``digits``."""
    width, height = config.image_size
    image, backdrop = _paint(
        rng, rng.uniform(*config.background_range, size=3), config.texture_contrast, height, width
    )
    instance_map = np.zeros((height, width), np.uint8)
    samples: list[int] = []
    areas: np.ndarray = np.zeros(
        1, int
    )  # of the whole digits; index 0, the background, needs none visible
    low, high = config.digits_per_image
    for sample in rng.choice(pool, rng.integers(low, high + 1), replace=False):
        opacity, mask = _render_glyph(rng, glyphs[sample], config)
        colour = _digit_colour(rng, backdrop, config)
        paint, _ = _paint(rng, colour, config.texture_contrast, *mask.shape)
        for _ in range(50):
            top = rng.integers(height - mask.shape[0] + 1)
            left = rng.integers(width - mask.shape[1] + 1)
            box = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
            visible = np.bincount(instance_map.ravel(), minlength=len(areas))
            visible -= np.bincount(instance_map[box][mask], minlength=len(areas))
            if np.all(visible >= config.min_visible * areas):
                break
        else:
            continue  # no room is left for a digit of this size
        samples.append(int(sample))
        areas = np.append(areas, np.count_nonzero(mask))
        instance_map[box][mask] = len(samples)
        alpha = opacity[..., None]
        image[box] = (1 - alpha) * image[box] + alpha * paint

    image = image + rng.normal(scale=config.noise, size=image.shape)
    return Scene(
        name=name,
        image=np.clip(np.rint(image), 0, 255).astype(np.uint8),
        instance_map=instance_map,
        labels=[int(digits[sample]) for sample in samples],
        samples=samples,
    )


def render_scenes(config: DigitsConfig, split: str) -> Iterator[Scene]:
    """Draw the scenes of a split.

    Args:
        config: What to draw.
        split: ``'train'`` or ``'val'``.

    Yields:
        The scenes in order.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    glyphs, digits = load_glyphs()
    # Whatever the seed, so that a detector of one seed never saw the validation digits of another.
    held_back = len(glyphs) // 5
    is_val = split == 'val'
    pool = np.arange(len(glyphs))[-held_back:] if is_val else np.arange(len(glyphs))[:-held_back]
    for index in range(config.num_val if is_val else config.num_train):
        rng = np.random.default_rng([config.seed, int(is_val), index])
        yield _render_scene(f'{split}_{index + 1:06d}', rng, glyphs, digits, pool, config)
