from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmws.config import load_config
from mmws.data.errors import DataError
from mmws.visualization.browse import _Sheet, browse

pytest.importorskip('mmdet.datasets', exc_type=ImportError)
pytest.importorskip('sklearn')

from mmws.data.digits import generate_digits
from tests.helpers.paths import DIGITS_CONFIG, ROOT
from tests.helpers.processes import call_tool

pytestmark = pytest.mark.slow

CELL, TITLE, GAP = 640, 28, 8


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return generate_digits(tmp_path_factory.mktemp('browse') / 'digits', num_train=5, num_val=1)


@pytest.fixture
def config(data) -> Config:
    cfg = load_config(DIGITS_CONFIG)
    cfg.train_dataloader.dataset.data_root = str(data)
    return cfg


def cells(path: Path, count: int, columns: int) -> list[np.ndarray]:
    sheet = np.asarray(Image.open(path).convert('RGB'))
    tops = [(row * (CELL + TITLE) + GAP, col * (CELL + GAP) + GAP)
            for row, col in (divmod(i, columns) for i in range(count))]  # fmt: skip
    return [sheet[top : top + CELL, left : left + CELL].astype(int) for top, left in tops]


def test_the_sheet_shows_every_sample_with_its_annotations(config, data, tmp_path):
    # Bugs: red and blue changed places, or images without what is known of them.
    assert browse(config, tmp_path / 'sheet.png', 16) == 5
    scenes = [Image.open(path).resize((CELL, CELL)) for path in sorted(data.glob('train/*.png'))]
    for drawn, scene in zip(cells(tmp_path / 'sheet.png', 5, 3), scenes):
        scene = np.asarray(scene, int)
        difference = np.abs(drawn - scene).mean(2)
        assert np.median(difference) < 3  # where nothing is drawn, it is the scene
        assert (difference > 40).mean() > 0.01  # masks, boxes and names
        assert np.abs(drawn - scene[..., ::-1]).mean() > np.abs(drawn - scene).mean()


def test_the_same_seed_gives_the_same_sheet(config, tmp_path):
    flip = dict(type='RandomFlip', prob=0.5)
    config.train_dataloader.dataset.pipeline.insert(2, flip)
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        browse(config, tmp_path / f'{name}.png', 2, seed)
    first, second, other = ((tmp_path / f'{name}.png').read_bytes() for name in 'abc')
    assert first == second != other


def mosaic(dataset):
    # MMDetection mixes boxes, not masks.
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
    pack = dataset.pipeline[2:]
    return dict(
        type='MultiImageMixDataset',
        dataset=dict(dataset, pipeline=load),
        pipeline=[dict(type='Mosaic', img_scale=(96, 96)), *pack],
    )


@pytest.mark.parametrize(
    'wrap',
    [
        lambda d: dict(type='RepeatDataset', times=3, dataset=d),
        lambda d: dict(type='ConcatDataset', datasets=[d, d]),
        lambda d: dict(type='ClassBalancedDataset', oversample_thr=0.5, dataset=d),
        lambda d: dict(type='RepeatDataset', times=2, dataset=mosaic(d)),
    ],
    ids=['repeat', 'concat', 'balanced', 'mosaic'],
)
def test_wrapped_data_sets_are_drawn(config, tmp_path, wrap):
    config.train_dataloader.dataset = wrap(config.train_dataloader.dataset)
    assert browse(config, tmp_path / 'sheet.png', 2) == 2
    assert all(cell.std() > 10 for cell in cells(tmp_path / 'sheet.png', 2, 2))


@pytest.mark.parametrize('to_rgb', [True, False])
def test_normalization_is_undone(config, tmp_path, to_rgb):
    browse(config, tmp_path / 'plain.png', 1)
    normalize = dict(type='Normalize', mean=[100, 110, 120], std=[50, 60, 70], to_rgb=to_rgb)
    config.train_dataloader.dataset.pipeline.insert(2, normalize)
    browse(config, tmp_path / 'normalized.png', 1)
    plain, normalized = (cells(tmp_path / f'{n}.png', 1, 1)[0] for n in ('plain', 'normalized'))
    assert np.median(np.abs(plain - normalized)) == 0


def test_a_data_set_without_colours_for_its_classes_is_drawn(config, tmp_path):
    # Bug: mmdet's visualizer stops where a palette has fewer colours than there are classes.
    config.train_dataloader.dataset.metainfo.palette = [(255, 0, 0)]
    assert browse(config, tmp_path / 'sheet.png', 1) == 1


def test_mistakes_are_told_and_nothing_is_written(config, tmp_path):
    out = tmp_path / 'sheet.png'
    with pytest.raises(ValueError, match='no train_dataloader'):
        browse(Config({'model': {}}), out)
    with pytest.raises(ValueError, match='at least 1 sample'):
        browse(config, out, 0)
    with pytest.raises(ValueError, match=r'sheet\.xyz: the name must end'):
        browse(config, tmp_path / 'sheet.xyz')
    config.train_dataloader.dataset.data_root = str(tmp_path / 'gone')
    with pytest.raises(DataError, match='gone does not exist'):
        browse(config, out)
    assert list(tmp_path.iterdir()) == []


def test_samples_that_are_no_images_are_told(config, tmp_path, monkeypatch):
    from mmdet.datasets import CocoDataset

    branches = {'inputs': {'sup': torch.zeros(3, 8, 8)}, 'data_samples': {}}
    monkeypatch.setattr(CocoDataset, '__getitem__', lambda self, index: branches)
    with pytest.raises(ValueError, match='is not one image'):
        browse(config, tmp_path / 'sheet.png')


def test_tool(data, tmp_path, monkeypatch, capsys):
    arguments = [
        str(ROOT / 'configs' / 'mask_rcnn_r18_gnws_digits.py'), '--num', '1',
        '--out', str(tmp_path / 'some' / 'sheet.jpg'),
        '--cfg-options', f'train_dataloader.dataset.data_root={data}',
    ]  # fmt: skip
    call_tool('browse.py', *arguments)
    assert f'wrote {tmp_path}/some/sheet.jpg: 1 training samples' in capsys.readouterr().out
    assert (tmp_path / 'some' / 'sheet.jpg').is_file()


def sheet_of(shapes: list[tuple[int, int]], small: float) -> tuple[int, int]:
    """Return the size of a sheet of pictures of shapes (width, height)."""
    sheet = _Sheet()
    for width, height in shapes:
        sheet.add(np.zeros((height, width, 3), np.uint8), 'a name  1x1, 1 objects', small)
    return sheet.render().size


def test_landscape_images_leave_no_empty_rows():
    # Bug: pictures of 3:1 stand in squares, two thirds of which are white.
    width, height = sheet_of([(1200, 400)] * 6, small=0.2)
    assert width * height < 6 * 1.25 * 640 * 640 / 3
    assert 0.5 < width / height < 2
    _, height = sheet_of([(1200, 400), (1200, 900), (1200, 300)], small=0.2)
    assert height <= 640 / 1200 * 1600 + 3 * (TITLE + GAP) + 2


def test_small_objects_get_more_pixels():
    # Bug: an object of 10 pixels in an image of 1920 has 3 pixels on the sheet.
    large, small = (sheet_of([(1920, 1080)], part) for part in (0.1, 10 / 1920))
    assert large[0] == 640 + 2 * GAP
    assert small[0] == 1600 + 2 * GAP
    many = sheet_of([(1920, 1080)] * 100, 10 / 1920)
    assert many[0] * many[1] < 50e6
