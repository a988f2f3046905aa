"""A small instance-segmentation set: real handwritten digits on procedural textures.

The digits are the 1797 images of :func:`sklearn.datasets.load_digits`, so nothing is downloaded.
The set is written in COCO layout and, by option, in VOC layout too.
"""

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union
from xml.etree import ElementTree

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

from .rle import encode_masks
from .voc import VOID, voc_palette

CLASSES = tuple('0123456789')

_VERSION = 1  # of what is drawn and written; raise it with every change of either
_STAMP = 'digits.json'
_CONTOUR_SCALE = 4  # contours run through pixel centres; finer pixels bring them to the edge


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


# ---------------------------------------------------------------------------------------- scenes


def _load_glyphs() -> tuple[np.ndarray, np.ndarray]:
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
    areas = np.zeros(1, int)  # of the whole digits; index 0, the background, needs none visible
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
    glyphs, digits = _load_glyphs()
    # Whatever the seed, so that a detector of one seed never saw the validation digits of another.
    held_back = len(glyphs) // 5
    is_val = split == 'val'
    pool = np.arange(len(glyphs))[-held_back:] if is_val else np.arange(len(glyphs))[:-held_back]
    for index in range(config.num_val if is_val else config.num_train):
        rng = np.random.default_rng([config.seed, int(is_val), index])
        yield _render_scene(f'{split}_{index + 1:06d}', rng, glyphs, digits, pool, config)


# ----------------------------------------------------------------------------------- COCO layout


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Trace the outline of a mask, along the edges of its pixels.

    COCO polygons have no holes: a hole is joined to the outline around it by a cut of no width,
    which every even-odd rasterizer, pycocotools' too, leaves out again.

    Args:
        mask: Boolean, of shape (H, W).

    Returns:
        One polygon ``[x0, y0, x1, y1, ...]`` per connected part, in pixels, where the top left
        pixel spans 0..1.
    """
    fine = mask.astype(np.uint8).repeat(_CONTOUR_SCALE, axis=0).repeat(_CONTOUR_SCALE, axis=1)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    contours = [cv2.approxPolyDP(c, 0.4 * _CONTOUR_SCALE, closed=True)[:, 0] for c in contours]
    outlines = {i: c for i, c in enumerate(contours) if hierarchy[0, i, 3] < 0}
    for hole, (_, _, _, parent) in zip(contours, hierarchy[0]):
        if parent < 0 or len(hole) < 3:
            continue
        outline = outlines[parent]
        distance = np.linalg.norm(outline[:, None] - hole, axis=2)
        i, j = np.unravel_index(distance.argmin(), distance.shape)
        loop = np.roll(hole, -j, axis=0)
        outlines[parent] = np.concatenate([outline[: i + 1], loop, loop[:1], outline[i:]])
    return [
        ((outline + 0.5) / _CONTOUR_SCALE).ravel().tolist()
        for outline in outlines.values()
        if len(outline) >= 3
    ]


class _CocoWriter:
    def __init__(self, root: Path, split: str, mask_format: str) -> None:
        self.folder = root / split
        self.folder.mkdir()
        self.file = root / 'annotations' / f'instances_{split}.json'
        self.file.parent.mkdir(exist_ok=True)
        self.mask_format = mask_format
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add(self, scene: Scene) -> None:
        file_name = f'{scene.name}.png'
        Image.fromarray(scene.image).save(self.folder / file_name)
        height, width = scene.instance_map.shape
        image_id = len(self.images) + 1
        self.images.append(
            {'id': image_id, 'file_name': file_name, 'width': width, 'height': height}
        )
        for label, sample, mask in zip(scene.labels, scene.samples, scene.masks()):
            (rle,) = encode_masks(mask[..., None])
            self.annotations.append(
                {
                    'id': len(self.annotations) + 1,
                    'image_id': image_id,
                    'category_id': label + 1,
                    'bbox': mask_utils.toBbox(rle).tolist(),
                    'area': int(mask_utils.area(rle)),
                    'iscrowd': 0,
                    'segmentation': rle if self.mask_format == 'rle' else mask_to_polygons(mask),
                    'sample': sample,  # not of COCO: index into sklearn.datasets.load_digits
                }
            )

    def close(self) -> None:
        content = {
            'info': {
                'description': 'Handwritten digits on procedural textures, made by mmws',
                'version': str(_VERSION),
            },
            'licenses': [],
            'images': self.images,
            'annotations': self.annotations,
            'categories': [
                {'id': i, 'name': name, 'supercategory': 'digit'}
                for i, name in enumerate(CLASSES, start=1)
            ],
        }
        self.file.write_text(json.dumps(content) + '\n')


# ------------------------------------------------------------------------------------ VOC layout


class _VocWriter:
    def __init__(self, root: Path) -> None:
        self.root = root / 'VOCdevkit' / 'VOC2012'
        for name in ('JPEGImages', 'Annotations', 'SegmentationClass', 'SegmentationObject'):
            (self.root / name).mkdir(parents=True)
        self.palette = voc_palette().ravel().tolist()
        self.names: dict[str, list[str]] = {'train': [], 'val': []}

    def add(self, scene: Scene, split: str) -> None:
        self.names[split].append(scene.name)
        Image.fromarray(scene.image).save(
            self.root / 'JPEGImages' / f'{scene.name}.jpg', quality=95, subsampling=0
        )
        # The border lies outside of the instances only: it would eat most of a thin stroke.
        occupied = scene.instance_map > 0
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        border = cv2.dilate(occupied.astype(np.uint8), kernel).astype(bool) & ~occupied
        class_of = np.array([0, *(label + 1 for label in scene.labels)], np.uint8)
        self._save_labels('SegmentationObject', scene.name, scene.instance_map, border)
        self._save_labels('SegmentationClass', scene.name, class_of[scene.instance_map], border)
        self._save_boxes(scene)

    def _save_labels(self, folder: str, name: str, labels: np.ndarray, border: np.ndarray) -> None:
        image = Image.fromarray(np.where(border, np.uint8(VOID), labels))
        image.putpalette(self.palette)
        image.save(self.root / folder / f'{name}.png')

    def _save_boxes(self, scene: Scene) -> None:
        """Write the objects in the order of their numbers in the label image."""
        height, width, depth = scene.image.shape
        root = ElementTree.Element('annotation')

        def add(parent: ElementTree.Element, **children: Any) -> None:
            for tag, value in children.items():
                ElementTree.SubElement(parent, tag).text = str(value)

        add(root, folder='VOC2012', filename=f'{scene.name}.jpg')
        add(ElementTree.SubElement(root, 'source'), database='mmws digits')
        add(ElementTree.SubElement(root, 'size'), width=width, height=height, depth=depth)
        add(root, segmented=1)
        for label, mask in zip(scene.labels, scene.masks()):
            x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
            item = ElementTree.SubElement(root, 'object')
            add(item, name=CLASSES[label], pose='Unspecified', truncated=0, difficult=0)
            # VOC counts pixels from 1 and includes the last one.
            box = ElementTree.SubElement(item, 'bndbox')
            add(box, xmin=x + 1, ymin=y + 1, xmax=x + w, ymax=y + h)
        ElementTree.indent(root, '\t')
        ElementTree.ElementTree(root).write(self.root / 'Annotations' / f'{scene.name}.xml')

    def close(self) -> None:
        lists = {**self.names, 'trainval': self.names['train'] + self.names['val']}
        for task in ('Main', 'Segmentation'):
            folder = self.root / 'ImageSets' / task
            folder.mkdir(parents=True)
            for split, names in lists.items():
                (folder / f'{split}.txt').write_text(''.join(f'{name}\n' for name in names))


# -------------------------------------------------------------------------------------- the set


def _stamp(config: DigitsConfig) -> str:
    return json.dumps({'made_by': 'mmws', 'version': _VERSION, **asdict(config)}, indent=2) + '\n'


def is_up_to_date(out_dir: Union[str, Path], config: DigitsConfig) -> bool:
    """Return whether ``out_dir`` holds the set that :func:`generate_digits` would write."""
    stamp = Path(out_dir) / _STAMP
    return stamp.is_file() and stamp.read_text() == _stamp(config)


def generate_digits(
    out_dir: Union[str, Path], config: Optional[DigitsConfig] = None, **overrides: Any
) -> Path:
    """Write the digits set: all of it, or nothing.

    ::

        out_dir/annotations/instances_{train,val}.json    COCO; category i + 1 is the digit i
        out_dir/{train,val}/*.png
        out_dir/VOCdevkit/VOC2012/...                     the same scenes in JPEG, if config.voc
        out_dir/digits.json                               the stamp: what the set was made from

    The same arguments write the same bytes with the same versions of NumPy, OpenCV and Pillow.
    A folder that holds the wanted set already is left alone; a digits set of other arguments is
    replaced.

    Args:
        out_dir: Folder to write.
        config: What to write; the defaults of :class:`DigitsConfig` if None.
        **overrides: Fields of :class:`DigitsConfig` to change in ``config``.

    Returns:
        ``out_dir``, absolute.

    Raises:
        FileExistsError: If ``out_dir`` holds anything that this function did not write.
        ImportError: If scikit-learn is not installed.
        ValueError: If a field of the config is out of range.
    """
    config = replace(config or DigitsConfig(), **overrides)
    out_dir = Path(out_dir).resolve()
    if is_up_to_date(out_dir, config):
        return out_dir
    _require_replaceable(out_dir)

    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out_dir.name}-', dir=out_dir.parent) as work:
        new = Path(work) / 'new'
        new.mkdir()
        voc = _VocWriter(new) if config.voc else None
        for split in ('train', 'val'):
            coco = _CocoWriter(new, split, config.mask_format)
            for scene in render_scenes(config, split):
                coco.add(scene)
                if voc is not None:
                    voc.add(scene, split)
            coco.close()
        if voc is not None:
            voc.close()
        (new / _STAMP).write_text(_stamp(config))
        if out_dir.exists():
            out_dir.rename(Path(work) / 'old')
        new.rename(out_dir)
    return out_dir


def _require_replaceable(out_dir: Path) -> None:
    """Raise unless ``out_dir`` is absent, empty or a digits set with nothing added to it."""
    if not out_dir.exists():
        return
    present = {path.name for path in out_dir.iterdir()} if out_dir.is_dir() else {out_dir.name}
    ours = {_STAMP, 'annotations', 'train', 'val', 'VOCdevkit'}
    if present and (_STAMP not in present or present - ours):
        raise FileExistsError(
            f'{out_dir} holds something other than a digits set: name another folder, or remove it'
        )
