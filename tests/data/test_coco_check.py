import copy
import json
import struct

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mmws.data.coco_check import check_coco, read_image_size
from mmws.data.coco_check.pixels import decode_image

# Two images of 64x48 with one triangle each; category ids in neither order nor sequence.
SOUND = {
    'images': [
        {'id': 1, 'file_name': 'a.jpg', 'height': 48, 'width': 64},
        {'id': 2, 'file_name': 'sub/b.jpg', 'height': 48, 'width': 64},
    ],
    'categories': [{'id': 7, 'name': 'zebra'}, {'id': 3, 'name': 'ant'}],
    'annotations': [
        {
            'id': i,
            'image_id': i,
            'category_id': category,
            'bbox': [4, 4, 20, 10],
            'area': 100,
            'iscrowd': 0,
            'segmentation': [[4, 4, 24, 4, 4, 14]],
        }
        for i, category in ((1, 7), (2, 3))
    ],
}


@pytest.fixture
def data():
    return copy.deepcopy(SOUND)


@pytest.fixture
def root(tmp_path):
    for name in ('train/a.jpg', 'train/sub/b.jpg', 'annotations/x'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith('.jpg'):
            Image.new('RGB', (64, 48)).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def check(root):
    def run(data, img_dir=None, **kwargs):
        path = root / 'annotations' / 'instances_train.json'
        path.write_text(json.dumps(data))
        return check_coco(path, img_dir, **kwargs)

    return run


def kinds(report):
    return {problem.kind: problem.count for problem in report.problems}


def test_sound_file(check, data, root):
    report = check(data)
    assert report.problems == []
    assert (report.images, report.instances, report.crowds) == (2, 2, 0)
    assert (report.images_with_instances, report.min_side) == (2, 48)
    assert report.counts == (1, 1)
    assert report.img_dir == str(root / 'train')


def test_class_order_is_that_of_mmdetection(check, data):
    # Label i is the i-th id that get_cat_ids returns. Sorting classes by id or by name would give
    # every object another class's name.
    report = check(data)
    coco = COCO(report.path)
    ids = coco.getCatIds(catNms=list(report.classes))
    assert [category['name'] for category in coco.loadCats(ids)] == list(report.classes)
    assert report.classes == ('zebra', 'ant')


def _set(key, value):
    def change(data):
        data['annotations'][0][key] = value

    return change


def _drop(key):
    def change(data):
        del data['annotations'][0][key]

    return change


def _repeat(key):
    def change(data):
        data[key].append(copy.deepcopy(data[key][0]))

    return change


def _reuse_category_id(data):
    data['categories'][1]['id'] = 7
    data['annotations'][1]['category_id'] = 7


def _rename_category(data):
    data['categories'][1]['name'] = 'zebra'


def _drop_height(data):
    del data['images'][0]['height']


RLE = {'size': [48, 64], 'counts': [10, 5, 3057]}


@pytest.mark.parametrize(
    ('change', 'kind', 'severity'),
    [
        (_set('category_id', 5), 'unknown_categories', 'error'),
        (_drop('segmentation'), 'no_masks', 'error'),
        (_set('segmentation', []), 'no_masks', 'error'),
        # A flat list instead of a list of polygons.
        (_set('segmentation', [4, 4, 24, 4, 4, 14]), 'no_masks', 'error'),
        (_set('segmentation', {**RLE, 'size': [64, 48]}), 'mask_sizes', 'error'),
        (_set('segmentation', [[4, 4, 24, 4]]), 'bad_masks', 'warning'),
        (_drop('area'), 'bad_entries', 'error'),
        (_set('bbox', [4, 4, 20]), 'bad_entries', 'error'),
        (_set('bbox', [4, 4, float('nan'), 10]), 'bad_entries', 'error'),
        (_drop_height, 'bad_entries', 'error'),
        (_repeat('annotations'), 'duplicate_annotation_ids', 'error'),
        (_repeat('images'), 'duplicate_image_ids', 'error'),
        (_reuse_category_id, 'duplicate_categories', 'error'),
        # get_cat_ids selects by name: two ids of one name make three labels of two classes.
        (_rename_category, 'duplicate_categories', 'error'),
        (_drop('iscrowd'), 'no_iscrowd', 'warning'),
        (_set('image_id', 9), 'unknown_images', 'warning'),
        (_set('bbox', [4, 4, 0, 10]), 'empty_boxes', 'warning'),
        (_set('bbox', [4, 4, 20, -1]), 'empty_boxes', 'warning'),
        (_set('bbox', [4, 4, 20, 0.5]), 'tiny_boxes', 'warning'),
        (_set('area', 0), 'tiny_boxes', 'warning'),
        (_set('bbox', [64, 4, 20, 10]), 'outside_boxes', 'warning'),
        (_set('bbox', [-30, 4, 20, 10]), 'outside_boxes', 'warning'),
        (_set('bbox', [50, 4, 20, 10]), 'partly_outside_boxes', 'warning'),
        (_set('bbox', [4, -3, 20, 10]), 'partly_outside_boxes', 'warning'),
    ],
)
def test_problem_is_found(check, data, change, kind, severity):
    change(data)
    found = {problem.kind: problem for problem in check(data).problems}
    assert kind in found, found
    assert found[kind].count == 1
    assert found[kind].severity == severity
    assert '\n' not in found[kind].text
    assert 'instances_train.json' in found[kind].text


@pytest.mark.parametrize(
    'change',
    [
        _set('segmentation', RLE),
        # Over the edge by rounding, as in COCO itself.
        _set('bbox', [44.5, 4, 20, 10]),
        _set('id', 'abc'),
    ],
)
def test_harmless_entries_are_no_problem(check, data, change):
    change(data)
    assert check(data).problems == []


def test_masks_only_matter_where_they_are_trained(check, data):
    del data['annotations'][0]['segmentation']
    assert check(data, masks=False).problems == []


def test_normalized_boxes_are_no_annotations(check, data):
    # Boxes in [0, 1] instead of pixels: every one is dropped, the loss is that of empty images.
    for annotation in data['annotations']:
        annotation['bbox'] = [0.1, 0.1, 0.5, 0.5]
    assert kinds(check(data)) == {'no_annotations': 1, 'tiny_boxes': 2}


def test_crowds_alone_cannot_be_trained(check, data):
    for annotation in data['annotations']:
        annotation.update(iscrowd=1, segmentation=RLE)
    report = check(data)
    assert report.crowds == 2
    assert report.rle_masks == 0
    assert kinds(report) == {'no_annotations': 1}


def test_images_without_annotations(check, data):
    data['annotations'].pop()
    report = check(data)
    assert kinds(report) == {'images_without_annotations': 1}
    assert report.images_with_instances == 1
    assert report.counts == (1, 0)


def test_missing_files_are_counted_and_named(check, data, root):
    (root / 'train' / 'sub' / 'b.jpg').unlink()
    (problem,) = check(data).problems
    assert (problem.kind, problem.severity, problem.count) == ('missing_images', 'error', 1)
    assert problem.examples == ('sub/b.jpg',)
    assert str(root / 'train') in problem.text


def test_given_folder_is_not_second_guessed(check, data, root):
    report = check(data, root)
    assert kinds(report) == {'missing_images': 2}
    assert report.img_dir == str(root)


@pytest.mark.parametrize('folder', ['train2017', 'images', 'images/train', '', 'annotations'])
def test_finds_the_image_folder(check, data, root, folder):
    (root / 'moved').mkdir()
    (root / 'train').rename(root / 'moved' / 'x')
    target = root / folder
    target.mkdir(parents=True, exist_ok=True)
    for child in (root / 'moved' / 'x').iterdir():
        child.rename(target / child.name)
    report = check(data)
    assert report.problems == []
    assert report.img_dir == str(target)


def test_folder_of_the_split_wins_over_a_common_one(check, data, root):
    # Both splits number their images from 1: the wrong folder resolves as well.
    (root / 'sub').mkdir()
    (root / 'a.jpg').touch()
    (root / 'sub' / 'b.jpg').touch()
    assert check(data).img_dir == str(root / 'train')


def test_an_image_that_cannot_be_read(check, data, root):
    # Bug: training stops hours later at cv2's "!buf.empty()".
    (root / 'train' / 'a.jpg').write_bytes(b'')
    report = check(data)
    assert kinds(report) == {'bad_images': 1}
    assert 'a.jpg' in report.problems[0].text


def test_an_image_of_another_size_than_written(check, data):
    # Bug: width and height swapped or of the original photographs, masks trained misplaced.
    for image in data['images']:
        image['width'] *= 2
    report = check(data)
    assert kinds(report) == {'image_sizes': 2}
    assert 'a.jpg is 64x48' in report.problems[0].text


def test_a_photograph_that_exif_turns_has_the_size_it_is_read_with(check, data, root):
    exif = Image.Exif()
    exif[274] = 6
    Image.new('RGB', (48, 64)).save(root / 'train' / 'a.jpg', exif=exif)
    assert kinds(check(data)) == {}


def turned_picture(path, orientation, by='exif'):
    """Write a picture of 64 x 48 with an orientation in EXIF, as a number or a text, or in XMP."""
    exif = Image.Exif()
    if by == 'exif':
        exif[274] = orientation
    options = {'exif': exif}
    if by == 'text':
        entry = struct.pack('<HHI4s', 274, 2, 2, str(orientation).encode())
        options = {'exif': b'Exif\0\0II*\0' + struct.pack('<IH', 8, 1) + entry + bytes(4)}
    if by == 'xmp':
        rdf = f'<rdf:Description tiff:Orientation="{orientation}"/>'
        options['xmp'] = f'<x:xmpmeta><rdf:RDF>{rdf}</rdf:RDF></x:xmpmeta>'.encode()
    Image.new('RGB', (64, 48)).save(path, **options)


@pytest.mark.parametrize(
    ('name', 'orientation', 'by'),
    [('a.jpg', 6, 'exif'), ('a.png', 6, 'exif'), ('a.webp', 6, 'exif'), ('a.jpg', 6, 'xmp'),
     ('a.jpg', 6, 'text'), ('a.tif', 6, 'exif')],
)  # fmt: skip
def test_the_size_is_that_which_opencv_reads(tmp_path, name, orientation, by):
    # Bugs: WebP, which this OpenCV may not turn, and XMP, which it never reads, counted as turned,
    # TIFFs twice; a text as orientation raised TypeError.
    path = tmp_path / name
    turned_picture(path, orientation, by)
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert read_image_size(path) == (pixels.shape[1], pixels.shape[0])
    state = decode_image(path)
    assert state.size == (pixels.shape[1], pixels.shape[0])
    assert (state.orientation > 1) == (pixels.shape[:2] == (64, 48))


def test_an_image_above_pillows_limit_is_read(check, data, root, monkeypatch):
    # Bug: DecompressionBombError, which ended the check, for an image that OpenCV decodes.
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    assert kinds(check(data)) == {}
    assert read_image_size(next(root.rglob('*.jpg'))) == (64, 48)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_absolute_file_names_need_no_folder(check, data, root):
    # Bug: every folder "has" such files, and the first one tried, which was not there, was taken.
    for image in data['images']:
        image['file_name'] = str(root / 'train' / image['file_name'])
    report = check(data)
    assert report.img_dir == str(root / 'annotations')
    assert report.problems == []


def test_names_the_folders_tried(check, data, root):
    data['images'][0]['file_name'] = data['images'][1]['file_name'] = 'gone.jpg'
    (problem,) = check(data).problems
    assert problem.kind == 'no_img_dir'
    assert str(root / 'train2017') in problem.text
    assert '`img_dirs`' in problem.text


@pytest.mark.parametrize(
    ('text', 'kind'),
    [
        (None, 'unreadable'),
        ('{"images": [', 'unreadable'),
        ('[]', 'not_coco'),
        ('{"images": [], "annotations": []}', 'not_coco'),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', 'not_coco'),
        ('{"images": [3], "annotations": [null], "categories": ["a"]}', 'bad_entries'),
    ],
)
def test_broken_files_are_reported_not_raised(tmp_path, text, kind):
    path = tmp_path / 'a.json'
    if text is not None:
        path.write_text(text)
    report = check_coco(path)
    assert kind in kinds(report)
    assert all(str(path) in problem.text for problem in report.problems)
