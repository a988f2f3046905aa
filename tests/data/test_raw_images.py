"""Images of 16 bits and of any number of channels, from the file to the first convolution."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from PIL import Image
from torch import nn

import mmws
from mmws.checkpoints.input_channels import adapt_input_channels
from mmws.config import read_config
from mmws.data.coco_check import check_coco, read_image_size
from mmws.data.new_config import new_config
from mmws.data.raw_images import decode_raw, measure_raw, viewable
from tests.helpers.paths import CONFIGS
from tests.helpers.processes import call_tool, run_tool

pytestmark = pytest.mark.usefixtures('mmdet_registered')


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, C): PNG up to four channels, a TIFF with a page for each channel beyond."""
    if path.suffix == '.tif':
        assert cv2.imwritemulti(str(path), [np.ascontiguousarray(page) for page in pixels.T])
    else:
        assert cv2.imwrite(str(path), pixels)


@pytest.mark.parametrize(
    ('channels', 'dtype', 'suffix'),
    [(1, np.uint16, '.png'), (3, np.uint16, '.png'), (4, np.uint8, '.png'), (1, np.uint8, '.jpg'),
     (2, np.uint16, '.tif'), (6, np.uint16, '.tif')],
)  # fmt: skip
def test_no_bit_and_no_channel_is_lost(tmp_path, channels, dtype, suffix):
    # Bug: 16 bits are divided by 256, and the fourth channel is taken for transparency.
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (20, 30, channels), dtype)
    path = tmp_path / f'x{suffix}'
    write_image(path, pixels.transpose(1, 0, 2) if suffix == '.tif' else pixels)
    load = TRANSFORMS.build(dict(type='mmws.LoadRawImage'))
    result = load({'img_path': str(path)})
    assert (result['img'].dtype, result['img'].shape) == (np.float32, (20, 30, channels))
    assert result['img_shape'] == result['ori_shape'] == (20, 30)
    if suffix != '.jpg':
        np.testing.assert_array_equal(result['img'], pixels)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ('samples', 'photometric', 'planes', 'extra'),
    [
        (1, 'minisblack', None, None), (1, 'miniswhite', None, None),
        *((n, 'minisblack', planes, None) for n in (2, 3, 4, 5, 6)
          for planes in ('contig', 'separate')),
        (3, 'rgb', 'contig', None), (3, 'rgb', 'separate', None),
        *((4, 'rgb', planes, extra) for planes in ('contig', 'separate')
          for extra in ('unspecified', 'assocalpha', 'unassalpha')),
    ],
)  # fmt: skip
def test_every_layout_of_a_tiff_keeps_its_samples(
    tmp_path, dtype, samples, photometric, planes, extra
):
    # Bugs: of several samples that are no colours OpenCV gave the first, one that was mixed of
    # several, or one of 8 bits; planes of 16 bits were mixed, white that is 0 was inverted, and
    # colours were multiplied by their transparency. Pillow, which read the size, failed.
    tifffile = pytest.importorskip('tifffile')
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (20, 30, samples), dtype)
    stored = pixels.transpose(2, 0, 1) if planes == 'separate' else pixels
    options = {'planarconfig': planes} if planes else {}
    if extra:
        options['extrasamples'] = [extra]
    path = tmp_path / 'x.tif'
    tifffile.imwrite(
        path, stored[..., 0] if samples == 1 else stored, photometric=photometric, **options
    )
    if photometric == 'rgb':
        pixels = np.concatenate([pixels[..., 2::-1], pixels[..., 3:]], axis=2)
    found = decode_raw(path.read_bytes())
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels)
    assert read_image_size(path) == (30, 20)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('bigtiff', [False, True])
def test_a_tiff_is_turned_alike_by_both_decoders(tmp_path, orientation, bigtiff):
    # Bug: the size of a TIFF that stands on its side was turned twice.
    tifffile = pytest.importorskip('tifffile')
    pixels = np.random.default_rng(0).integers(0, 65535, (20, 30), np.uint16)
    tags = [(274, 'H', 1, orientation, True)]
    options = {'extratags': tags, 'bigtiff': bigtiff, 'photometric': 'minisblack'}
    tifffile.imwrite(tmp_path / '1.tif', pixels, **options)
    two = pixels[..., None].repeat(2, axis=2)
    tifffile.imwrite(tmp_path / '2.tif', two, planarconfig='contig', **options)
    one, two = (decode_raw((tmp_path / name).read_bytes()) for name in ('1.tif', '2.tif'))
    np.testing.assert_array_equal(two, one.repeat(2, axis=2))
    for name in ('1.tif', '2.tif'):
        assert read_image_size(tmp_path / name) == (one.shape[1], one.shape[0])


def test_a_tiff_that_needs_tifffile_says_so(tmp_path, monkeypatch):
    tifffile = pytest.importorskip('tifffile')
    pixels = np.ones((8, 9, 3), np.uint16)
    options = {'photometric': 'minisblack', 'planarconfig': 'contig'}
    tifffile.imwrite(tmp_path / 'x.tif', pixels, **options)
    monkeypatch.setitem(sys.modules, 'tifffile', None)
    with pytest.raises(ValueError, match='pip install tifffile'):
        decode_raw((tmp_path / 'x.tif').read_bytes())


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / 'x.tif'
    for content in (b'', b'no image', b'II*\x00' + b'\xff' * 40):
        path.write_bytes(content)
        with pytest.raises(ValueError, match='cannot decode'):
            decode_raw(content)
        with pytest.raises(ValueError, match=r'x\.tif'):
            TRANSFORMS.build(dict(type='mmws.LoadRawImage'))({'img_path': str(path)})


def test_statistics_are_those_of_all_pixels(tmp_path):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 4096, (5, 8, 9, 3), np.uint16)
    images[..., 2] = 7
    for i, image in enumerate(images):
        write_image(tmp_path / f'{i}.png', image)
    found = measure_raw(tmp_path, [f'{i}.png' for i in range(5)])
    assert (found.channels, found.largest) == (3, images.max())
    np.testing.assert_allclose(found.mean, images.mean((0, 1, 2)), atol=1e-3)
    np.testing.assert_allclose(found.std, [*images.std((0, 1, 2))[:2], 1], atol=1e-3)
    write_image(tmp_path / '5.png', images[0, ..., :1])
    with pytest.raises(ValueError, match=r'5\.png has 1 channels and 0\.png has 3'):
        measure_raw(tmp_path, [f'{i}.png' for i in range(6)])


def test_every_channel_is_normalized_by_its_own_numbers():
    # Bug: MMEngine takes one number or three.
    mean, std = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 4.0, 8.0, 16.0]
    config = dict(type='mmws.RawImagePreprocessor', mean=mean, std=std, pad_size_divisor=8)
    preprocess = MODELS.build(config)
    images = torch.rand(5, 6, 7) * 9
    found = preprocess({'inputs': [images], 'data_samples': None})['inputs'][0]
    expected = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(found[:, :6, :7], expected)
    assert found.shape == (5, 8, 8)


@pytest.mark.parametrize('channels', [1, 2, 5])
def test_weights_for_colours_see_the_same_in_equal_channels(channels):
    # Bug: the first convolution starts at random, and the layers behind it see noise.
    trained, model = nn.Conv2d(3, 4, 3), nn.Conv2d(channels, 4, 3)
    weights = trained.state_dict()
    adapt_input_channels(model, weights)
    model.load_state_dict(weights)
    grey = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(
        model(grey.expand(1, channels, 8, 8)), trained(grey.expand(1, 3, 8, 8))
    )


def test_filters_that_see_no_image_are_left():
    # Bug: filters over three channels were rewritten wherever they were: in a layer behind the
    # first one, and in a transposed convolution, whose second dimension is its outputs.
    for model, trained in (
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3)),
         nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 6, 3))),
        (nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 6, 3)),
         nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 6, 3))),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 5, 3)),
         nn.Sequential(nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 3, 3))),
        (nn.ConvTranspose2d(4, 5, 3), nn.ConvTranspose2d(4, 3, 3)),
    ):  # fmt: skip
        weights = trained.state_dict()
        before = dict(weights)
        adapt_input_channels(model, weights)
        assert all(weights[name] is before[name] for name in before)


def test_every_branch_that_sees_the_image_is_fitted():
    # Bug: of a model with two branches, the second one would start at random.
    branches, trained = (
        nn.ModuleDict({k: nn.Sequential(nn.Conv2d(c, 4, 3), nn.Conv2d(4, 4, 3)) for k in 'ab'})
        for c in (5, 3)
    )
    weights = trained.state_dict()
    adapt_input_channels(branches, weights)
    branches.load_state_dict(weights)


def test_mmengine_loads_weights_for_colours_into_other_channels(tmp_path):
    weights = mmws.ConvWS2d(3, 4, 3).state_dict()
    torch.save({'0.' + key: value for key, value in weights.items()}, tmp_path / 'rgb.pth')
    from mmengine.runner import load_checkpoint

    model = nn.Sequential(mmws.ConvWS2d(5, 4, 3))
    load_checkpoint(model, str(tmp_path / 'rgb.pth'))
    mean = weights['weight'].mean(1, keepdim=True) * 3 / 5
    torch.testing.assert_close(model[0].weight, mean.expand(4, 5, 3, 3))


def test_a_picture_for_the_eye():
    dark = np.full((4, 4, 1), 100, np.uint16)
    dark[0, 0] = 900
    shown = viewable(dark)
    assert (shown.shape, shown.dtype) == ((4, 4, 3), np.uint8)
    assert shown.max() == 255
    colours = np.random.default_rng(0).integers(0, 255, (4, 4, 5), np.uint8)
    np.testing.assert_array_equal(viewable(colours), colours[..., :3])


CHANNELS = 5


@pytest.fixture
def microscope(tmp_path):
    """A COCO data set of 12-bit images of five channels, with a bright square each."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2)):
        (tmp_path / split).mkdir()
        data = {'images': [], 'annotations': [], 'categories': [{'id': 1, 'name': 'cell'}]}
        for i in range(1, count + 1):
            pixels = rng.integers(100, 300, (96, 64, CHANNELS), np.uint16)
            pixels[10:40, 5:45] += 3000
            write_image(tmp_path / split / f'{i}.tif', pixels)
            data['images'].append({'id': i, 'file_name': f'{i}.tif', 'width': 96, 'height': 64})
            corners = [10, 5, 40, 5, 40, 45, 10, 45]
            data['annotations'].append(
                {'id': i, 'image_id': i, 'category_id': 1, 'bbox': [10, 5, 30, 40], 'area': 1200,
                 'iscrowd': 0, 'segmentation': [corners]}
            )  # fmt: skip
        (tmp_path / f'{split}.json').write_text(json.dumps(data))
    return tmp_path


def config_of(folder, **options):
    return new_config(
        train_json=folder / 'train.json', val_json=folder / 'val.json',
        img_dirs=[folder / 'train', folder / 'val'],
        base=CONFIGS / 'mask_rcnn_r18_gnws_narrow.py', iters=2, out=folder / 'mine.py', **options,
    )  # fmt: skip


@pytest.mark.slow
def test_new_config_measures_the_images(microscope):
    written = config_of(microscope, raw_images=True)
    assert any('5 channel(s)' in note for note in written.notes)
    cfg = read_config(microscope / 'mine.py')
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.pipeline[0].type == 'mmws.LoadRawImage'
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.type == 'mmws.RawImagePreprocessor'
    assert len(preprocessor.mean) == len(preprocessor.std) == CHANNELS
    assert 300 < preprocessor.mean[0] < 900
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert MODELS.build(cfg.model).backbone.conv1.weight.shape[1] == CHANNELS


def test_without_the_option_such_images_are_named(microscope):
    # Bug: the first page alone is trained on, without a word.
    warning, _ = [line for line in config_of(microscope).warnings if 'channels' in line]
    assert '1.tif, 5 channels' in warning
    assert '`raw_images=True`' in warning


def test_deep_images_are_named_with_the_option_that_keeps_their_bits(tmp_path):
    Image.fromarray(np.full((20, 30), 900, np.uint16)).save(tmp_path / 'deep.png')
    image = {'id': 1, 'file_name': 'deep.png', 'width': 30, 'height': 20}
    box = {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [1, 1, 9, 9], 'area': 81, 'iscrowd': 0}
    data = {'images': [image], 'annotations': [box], 'categories': [{'id': 1, 'name': 'a'}]}
    (tmp_path / 'x.json').write_text(json.dumps(data))
    (found,) = [p for p in check_coco(tmp_path / 'x.json', tmp_path, False).problems
                if p.kind == 'deep_images']  # fmt: skip
    assert '`raw_images=True`' in found.text


@pytest.mark.e2e
def test_training_test_report_and_prediction_read_all_channels(microscope):
    # Bug: one of the tools reads 8 bits of three channels, and the first convolution fails.
    config_of(microscope, raw_images=True)
    derived = microscope / 'derived.py'
    loader = 'dict(num_workers=0, persistent_workers=False)'
    derived.write_text(
        "_base_ = './mine.py'\n"
        f'train_dataloader = val_dataloader = test_dataloader = {loader}\n'
        'default_hooks = dict(logger=dict(interval=1))\n'
        'model = dict(test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=5)))\n'
    )
    work = microscope / 'work'
    run_tool('train.py', derived, '--work-dir', work)
    checkpoint = (work / 'last_checkpoint').read_text()
    run_tool('test.py', derived, checkpoint, '--work-dir', microscope / 'test')
    call_tool('report.py', derived, work, '--num-pictures', 1)
    assert (work / 'report' / 'report.html').stat().st_size > 10_000
    out = microscope / 'predicted'
    call_tool(
        'predict.py', microscope / 'val', '--config', derived, '--checkpoint', checkpoint,
        '--out-dir', out,
    )  # fmt: skip
    assert len(json.loads((out / 'predictions.json').read_text())['annotations']) == 10
    call_tool('browse.py', derived, '--out', microscope / 'sheet.png')
