"""What is drawn in a digits set."""

from __future__ import annotations

from dataclasses import dataclass

from ..voc import VOID

CLASSES = tuple('0123456789')

VERSION = 1  # of what is drawn and written; raise it with every change of either


@dataclass(frozen=True)
class DigitsConfig:
    """What :func:`generate_digits` draws. Lengths are in pixels, colours in 0..255 RGB.

    Args:
        num_train: Scenes of the training split.
        num_val: Scenes of the validation split, made of digits that no training scene shows.
        image_size: Width and height of a scene.
        seed: Scene ``i`` of a split depends on the seed and on ``i`` alone.
        voc: Also write ``VOCdevkit/VOC2012``.
        mask_format: ``'polygon'``, or ``'rle'`` for exact masks. Of the COCO files.
        digits_per_image: Fewest and most digits of a scene.
        digit_size: Smallest and largest height of a digit.
        max_rotation: In degrees, to either side.
        max_shear: Horizontal shift per row, to either side.
        background_range: Of each channel of a background's mean colour. Backgrounds darker than
            digits by default: a network learns shapes much sooner when the sign of the contrast
            is always the same.
        digit_range: Of each channel of a digit's mean colour.
        min_contrast: Euclidean distance of a digit's colour from those of the background, where
            the ranges allow it.
        texture_contrast: Distance between the two colours of a texture.
        noise: Standard deviation of the pixel noise.
        min_visible: Fraction of a digit that later digits must leave visible.

    Raises:
        ValueError: If a field is out of range.
    """

    num_train: int = 240
    num_val: int = 60
    image_size: tuple[int, int] = (192, 192)
    seed: int = 0
    voc: bool = False
    mask_format: str = 'polygon'
    digits_per_image: tuple[int, int] = (2, 6)
    digit_size: tuple[int, int] = (36, 72)
    max_rotation: float = 12.0
    max_shear: float = 0.15
    background_range: tuple[int, int] = (20, 110)
    digit_range: tuple[int, int] = (130, 255)
    min_contrast: float = 110.0
    texture_contrast: float = 70.0
    noise: float = 5.0
    min_visible: float = 0.9

    def __post_init__(self) -> None:
        def require(condition: bool, field: str, rule: str) -> None:
            if not condition:
                raise ValueError(f'{field} must be {rule}, got {getattr(self, field)!r}')

        require(self.num_train >= 1, 'num_train', 'at least 1')
        require(self.num_val >= 1, 'num_val', 'at least 1')
        require(self.seed >= 0, 'seed', 'at least 0')
        require(self.mask_format in ('polygon', 'rle'), 'mask_format', "'polygon' or 'rle'")
        low, high = self.digits_per_image
        require(1 <= low <= high < VOID, 'digits_per_image', 'an increasing pair from 1 to 254')
        low, high = self.digit_size
        require(16 <= low <= high, 'digit_size', 'an increasing pair of at least 16')
        require(
            min(self.image_size) >= 2 * high,
            'image_size',
            f'at least twice the largest digit_size ({high})',
        )
        require(0 <= self.max_rotation <= 45, 'max_rotation', 'from 0 to 45 degrees')
        require(0 <= self.max_shear <= 0.5, 'max_shear', 'from 0 to 0.5')
        for field in ('background_range', 'digit_range'):
            low, high = getattr(self, field)
            require(0 <= low <= high <= 255, field, 'an increasing pair from 0 to 255')
        require(self.min_contrast >= 0, 'min_contrast', 'at least 0')
        require(self.texture_contrast >= 0, 'texture_contrast', 'at least 0')
        require(self.noise >= 0, 'noise', 'at least 0')
        require(0.5 <= self.min_visible <= 1, 'min_visible', 'from 0.5 to 1')
