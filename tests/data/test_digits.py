import contextlib
import dataclasses
import hashlib
import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

pytest.importorskip('sklearn')

from mmws.data.digits import (
    DigitsConfig,
    generate_digits,
    is_up_to_date,
    mask_to_polygons,
    render_scenes,
    write_single_digits,
)
from mmws.data.voc import VOID, voc_palette
from tests.helpers.processes import call_tool

pytestmark = pytest.mark.slow

CONFIG = DigitsConfig(num_train=4, num_val=2, voc=True)
SPLITS = ('train', 'val')


@pytest.fixture(scope='module')
def tree(tmp_path_factory) -> Path:
    return generate_digits(tmp_path_factory.mktemp('data') / 'digits', CONFIG)


@pytest.fixture(scope='module')
def scenes() -> dict:
    return {split: list(render_scenes(CONFIG, split)) for split in SPLITS}


def load_coco(root: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(root / 'annotations' / f'instances_{split}.json')


def digests(root: Path) -> dict:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def read_labels(root: Path, folder: str, name: str) -> np.ndarray:
    return np.array(Image.open(root / 'VOCdevkit' / 'VOC2012' / folder / f'{name}.png'))


def test_the_seed_decides_every_byte(tree, tmp_path):
    np.random.seed(7)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        again = generate_digits(tmp_path / 'again', CONFIG)
    finally:
        cv2.setNumThreads(threads)
    assert digests(again) == digests(tree)

    other = generate_digits(tmp_path / 'other', CONFIG, seed=1)
    name = 'train/train_000001.png'
    assert digests(other)[name] != digests(tree)[name]


def test_a_scene_does_not_depend_on_how_many_are_drawn(scenes):
    (first,) = render_scenes(dataclasses.replace(CONFIG, num_train=1), 'train')
    np.testing.assert_array_equal(first.image, scenes['train'][0].image)


def test_the_global_generator_is_left_alone():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    list(render_scenes(dataclasses.replace(CONFIG, num_val=1), 'val'))
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_validation_digits_are_held_back(tree):
    samples = {}
    for split in SPLITS:
        annotations = load_coco(tree, split).dataset['annotations']
        samples[split] = {annotation['sample'] for annotation in annotations}
    assert max(samples['train']) < 1797 * 4 / 5 <= min(samples['val'])


def test_labels_are_those_of_the_samples(tree):
    from sklearn.datasets import load_digits

    target = load_digits().target
    for split in SPLITS:
        coco = load_coco(tree, split)
        for annotation in coco.dataset['annotations']:
            name = coco.cats[annotation['category_id']]['name']
            assert name == str(target[annotation['sample']])


@pytest.mark.parametrize('split', SPLITS)
def test_coco_files_agree_with_the_scenes(tree, scenes, split):
    coco = load_coco(tree, split)
    assert [c['name'] for c in coco.loadCats(range(1, 11))] == list('0123456789')
    assert len(coco.imgs) == len(scenes[split])
    for image, scene in zip(coco.dataset['images'], scenes[split]):
        pixels = np.array(Image.open(tree / split / image['file_name']))
        np.testing.assert_array_equal(pixels, scene.image)
        assert pixels.shape == (image['height'], image['width'], 3)

        annotations = coco.loadAnns(coco.getAnnIds(image['id']))
        assert len(annotations) == len(scene.labels)
        for annotation, label, mask in zip(annotations, scene.labels, scene.masks()):
            assert annotation['category_id'] == label + 1
            assert annotation['iscrowd'] == 0
            assert annotation['area'] == mask.sum()
            y, x = np.nonzero(mask)
            box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            assert annotation['bbox'] == box
            assert iou(coco.annToMask(annotation), mask) >= 0.95


def test_rle_is_exact_and_boxes_and_areas_are_its_own(tree, scenes, tmp_path):
    root = generate_digits(tmp_path / 'rle', CONFIG, mask_format='rle', voc=False)
    assert not (root / 'VOCdevkit').exists()
    coco = load_coco(root, 'train')
    masks = [mask for scene in scenes['train'] for mask in scene.masks()]
    assert len(masks) == len(coco.anns)
    for annotation, mask in zip(coco.dataset['annotations'], masks):
        rle = annotation['segmentation']
        np.testing.assert_array_equal(mask_utils.decode(rle), mask)
        assert annotation['area'] == mask_utils.area(rle)
        assert annotation['bbox'] == mask_utils.toBbox(rle).tolist()
    by_polygon = load_coco(tree, 'train').dataset['annotations']
    keys = ('id', 'image_id', 'category_id', 'bbox', 'area', 'sample')
    for a, b in zip(coco.dataset['annotations'], by_polygon):
        assert [a[key] for key in keys] == [b[key] for key in keys]


def test_masks_are_the_visible_parts():
    """Every digit keeps the asked share of its pixels, in scenes made crowded."""
    config = DigitsConfig(
        num_train=6, image_size=(128, 96), digits_per_image=(5, 8), digit_size=(40, 48)
    )
    touched = 0
    for scene in render_scenes(config, 'train'):
        assert len(scene.labels) == len(scene.samples) >= 1
        total = np.sum(list(scene.masks()), axis=0)
        assert total.max() == 1
        assert all(mask.any() for mask in scene.masks())
        kernel = np.ones((3, 3), np.uint8)
        grown = [cv2.dilate(mask.astype(np.uint8), kernel) for mask in scene.masks()]
        touched += np.sum(grown, axis=0).max() > 1
    assert touched >= 3


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.logical_and(a, b).sum() / np.logical_or(a, b).sum()


def rasterize(polygons: list, shape: tuple) -> np.ndarray:
    return mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, *shape)))


def test_polygons_follow_pixel_edges_and_keep_holes():
    square = np.zeros((9, 12), bool)
    square[2:6, 3:10] = True
    (polygon,) = mask_to_polygons(square)
    assert min(polygon[0::2]) == pytest.approx(3, abs=0.2)
    assert max(polygon[0::2]) == pytest.approx(10, abs=0.2)

    rings = np.zeros((60, 90), np.uint8)
    for x in (20, 65):
        cv2.ellipse(rings, (x, 30), (14, 24), 0, 0, 360, 1, thickness=4)
    cv2.line(rings, (6, 30), (34, 30), 1, thickness=3)  # two holes in the left one
    polygons = mask_to_polygons(rings > 0)
    assert len(polygons) == 2
    assert iou(rasterize(polygons, rings.shape), rings) >= 0.99


@pytest.mark.parametrize('split', SPLITS)
def test_voc_tree_agrees_with_the_coco_tree(tree, split):
    coco = load_coco(tree, split)
    for image in coco.dataset['images']:
        name = Path(image['file_name']).stem
        objects = read_labels(tree, 'SegmentationObject', name)
        classes = read_labels(tree, 'SegmentationClass', name)
        np.testing.assert_array_equal(objects == VOID, classes == VOID)
        annotations = coco.loadAnns(coco.getAnnIds(image['id']))
        for index, annotation in enumerate(annotations, start=1):
            mask = objects == index
            assert iou(coco.annToMask(annotation), mask) >= 0.95
            assert annotation['area'] == mask.sum()
            assert set(classes[mask]) == {annotation['category_id']}
        assert set(np.unique(objects)) == {0, VOID, *range(1, len(annotations) + 1)}

        jpeg = Image.open(tree / 'VOCdevkit' / 'VOC2012' / 'JPEGImages' / f'{name}.jpg')
        png = Image.open(tree / split / image['file_name'])
        assert np.abs(np.array(jpeg, int) - np.array(png, int)).mean() < 4


def test_voc_border_is_void_and_about_two_pixels_wide(tree):
    objects = read_labels(tree, 'SegmentationObject', 'train_000001')
    inside = (objects > 0) & (objects < VOID)
    distance = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    assert np.all(objects[(distance > 0) & (distance <= 2)] == VOID)
    assert np.all(objects[distance >= 3] == 0)


def test_voc_boxes_count_from_one_and_include_the_last_pixel(tree):
    coco = load_coco(tree, 'val')
    for image in coco.dataset['images']:
        name = Path(image['file_name']).stem
        root = ElementTree.parse(
            tree / 'VOCdevkit' / 'VOC2012' / 'Annotations' / f'{name}.xml'
        ).getroot()
        assert root.findtext('filename') == f'{name}.jpg'
        assert int(root.findtext('size/width')) == image['width']
        annotations = coco.loadAnns(coco.getAnnIds(image['id']))
        for item, annotation in zip(root.findall('object'), annotations):
            assert item.findtext('name') == coco.cats[annotation['category_id']]['name']
            assert item.findtext('difficult') == '0'
            x, y, w, h = annotation['bbox']
            corners = [int(item.findtext(f'bndbox/{k}')) for k in ('xmin', 'ymin', 'xmax', 'ymax')]
            assert corners == [x + 1, y + 1, x + w, y + h]
        assert len(root.findall('object')) == len(annotations)


def test_voc_lists_and_palette(tree):
    sets = tree / 'VOCdevkit' / 'VOC2012' / 'ImageSets'
    for task in ('Main', 'Segmentation'):
        lists = {s: (sets / task / f'{s}.txt').read_text().split() for s in (*SPLITS, 'trainval')}
        assert lists['trainval'] == lists['train'] + lists['val']
        assert lists['val'] == ['val_000001', 'val_000002']
    # Aeroplane, bicycle, TV monitor and void, as every VOC label image has them.
    expected = [[128, 0, 0], [0, 128, 0], [0, 64, 128], [224, 224, 192]]
    assert voc_palette()[[1, 2, 20, 255]].tolist() == expected
    path = tree / 'VOCdevkit' / 'VOC2012' / 'SegmentationClass' / 'val_000001.png'
    assert Image.open(path).getpalette()[:6] == [0, 0, 0, 128, 0, 0]


def test_a_second_call_does_nothing_and_other_arguments_replace(tmp_path):
    config = DigitsConfig(num_train=1, num_val=1)
    out = tmp_path / 'digits'
    assert not is_up_to_date(out, config)
    generate_digits(out, config)
    times = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
    generate_digits(out, config)
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == times
    assert is_up_to_date(out, config)

    generate_digits(out, config, num_train=2)
    assert len(list((out / 'train').iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ['digits']


def test_a_failure_leaves_the_old_set_and_no_litter(tmp_path, monkeypatch):
    config = DigitsConfig(num_train=1, num_val=1)
    out = generate_digits(tmp_path / 'digits', config)
    before = digests(out)

    def fail(*args, **kwargs):
        raise OSError('disk full')

    monkeypatch.setattr('mmws.data.digits.coco_layout.mask_to_polygons', fail)
    with pytest.raises(OSError, match='disk full'):
        generate_digits(out, config, seed=1)
    assert digests(out) == before
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize('stamped', [False, True])
def test_a_folder_with_other_files_is_refused(tmp_path, stamped):
    out = tmp_path / 'digits'
    if stamped:
        generate_digits(out, num_train=1, num_val=1)
    out.mkdir(exist_ok=True)
    (out / 'thesis.txt').write_text('years of work')
    with pytest.raises(FileExistsError, match='other than a digits set'):
        generate_digits(out, num_train=1, num_val=2)
    assert (out / 'thesis.txt').exists()


def test_an_empty_folder_is_filled(tmp_path):
    generate_digits(tmp_path, num_train=1, num_val=1)
    assert json.loads((tmp_path / 'digits.json').read_text())['num_train'] == 1


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('num_train', 0),
        ('mask_format', 'png'),
        ('digit_size', (64, 28)),
        ('image_size', (100, 192)),
        ('digits_per_image', (0, 3)),
        ('min_visible', 0.2),
    ],
)
def test_a_bad_field_is_named(tmp_path, field, value):
    with pytest.raises(ValueError, match=f'^{field} must be'):
        generate_digits(tmp_path / 'digits', **{field: value})


def test_missing_scikit_learn_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match=r'pip install "mmws\[demo\]"'):
        generate_digits(tmp_path / 'digits')
    assert list(tmp_path.iterdir()) == []


def test_single_digits_are_all_there_once_in_the_folders_of_their_classes(tmp_path):
    # Bug: a digit is in both splits, or in the folder of another class.
    root = write_single_digits(tmp_path / 'single', size=8)
    found = {p.stem: p.relative_to(root).parts for p in root.rglob('*.png')}
    digits = pytest.importorskip('sklearn.datasets').load_digits()
    assert len(found) == len(list(root.rglob('*.png'))) == len(digits.target) == 1797
    for index, (image, label) in enumerate(zip(digits.images, digits.target)):
        split, name, _ = found[f'{index:04}']
        assert (split, name) == ('train' if index % 5 else 'val', str(label))
        if index % 100 == 0:
            pixels = np.asarray(Image.open(root / split / name / f'{index:04}.png'))
            np.testing.assert_allclose(pixels / 255, image / 16, atol=1 / 255)


def test_single_digits_leave_other_files_alone(tmp_path):
    (tmp_path / 'mine.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='is not empty'):
        write_single_digits(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']
    with pytest.raises(ValueError, match='limit must be at least 1, got 0'):
        write_single_digits(tmp_path / 'other', limit=0)


def test_tool(tmp_path, capsys):
    def run(*args: str) -> str:
        call_tool('make_digits.py', '--out', tmp_path / 'd', *args)
        return capsys.readouterr().out

    small = ('--num-train', '2', '--num-val', '1')
    assert 'wrote 2 training and 1 validation scenes' in run(*small)
    assert 'up to date' in run(*small)
    assert 'COCO and VOC layout' in run(*small, '--voc')
    assert (tmp_path / 'd' / 'VOCdevkit' / 'VOC2012' / 'JPEGImages').is_dir()
    with pytest.raises(SystemExit, match=r'^error: num_val must be at least 1, got 0$'):
        run('--num-val', '0')
