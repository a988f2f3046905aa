"""What is corrected in an annotation file, and that the result passes the checks."""

import copy
import json
import math

import pytest
from PIL import Image

from mmws.data.coco_check import check_coco
from mmws.data.mend import mend_coco

SQUARE = [10, 10, 20, 10, 20, 30, 10, 30]


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'train').mkdir()
    images, annotations = [], []
    for i in range(1, 4):
        name = f'{i}.png'
        Image.new('RGB', (64, 48)).save(tmp_path / 'train' / name)
        images.append({'id': i, 'file_name': name, 'width': 64, 'height': 48})
        for k in range(2):
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': i,
                    'category_id': 1 + k,
                    'bbox': [10, 10, 10, 20],
                    'area': 200,
                    'iscrowd': 0,
                    'segmentation': [list(SQUARE)],
                }
            )
    data = {
        'images': images,
        'annotations': annotations,
        'categories': [{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'b'}],
    }
    (tmp_path / 'train.json').write_text(json.dumps(data))
    return tmp_path


def field(name, value, only=None):
    def change(data):
        for i, entry in enumerate(data['annotations']):
            if only is None or i == only:
                entry[name] = value(entry[name]) if callable(value) else value

    return change


def drop(name, key='annotations'):
    def change(data):
        for entry in data[key]:
            del entry[name]

    return change


def rename(function):
    def change(data):
        for image in data['images']:
            image['file_name'] = function(image['file_name'])

    return change


def image_field(name, value):
    return lambda data: data['images'][0].update({name: value})


CHANGES = {
    # What has one meaning keeps all objects.
    'iscrowd missing': (drop('iscrowd'), 6),
    'iscrowd as text': (field('iscrowd', '0'), 6),
    'area missing': (drop('area'), 6),
    'area 0': (field('area', 0), 6),
    'image_id as text': (field('image_id', str), 6),
    'image_id as float': (field('image_id', float), 6),
    'category_id as text': (field('category_id', str), 6),
    'ids repeated': (field('id', 1), 6),
    'ids missing': (drop('id'), 6),
    'corners': (field('bbox', lambda b: [b[0] + 20, b[1] + 10, b[0] + 40, b[1] + 30]), 6),
    'box missing': (field('bbox', None, only=0), 6),
    'box over the edge': (field('bbox', [50, 10, 30, 20], only=0), 6),
    'polygon of points': (field('segmentation', [[[10, 10], [20, 10], [20, 30]]]), 6),
    'flat polygon': (field('segmentation', SQUARE), 6),
    'backslashes': (rename(lambda name: f'images\\{name}'), 6),
    'absolute path': (rename(lambda name: f'/home/me/{name}'), 6),
    'case': (rename(str.upper), 6),
    'width missing': (drop('width', 'images'), 6),
    'sizes of no image': (lambda data: [i.pop('height') for i in data['images']], 6),
    'width 0': (image_field('width', 0), 6),
    # What means nothing is left out, alone.
    'mask missing': (field('segmentation', None, only=0), 5),
    'mask not a number': (field('segmentation', [[math.nan, *SQUARE[1:]]], only=0), 5),
    'mask huge': (field('segmentation', [[1e9, *SQUARE[1:]]], only=0), 5),
    'mask garbage': (field('segmentation', {'size': [48, 64], 'counts': '~~'}, only=0), 5),
    'unknown image': (field('image_id', 99, only=0), 5),
    'unknown category': (field('category_id', 99, only=0), 5),
    'category NaN': (field('category_id', math.nan, only=0), 5),
    'category infinite': (field('category_id', math.inf, only=0), 5),
    'image infinite': (field('image_id', -math.inf, only=0), 5),
    'box empty': (field('bbox', [10, 10, 0, 5], only=0), 5),
    'box outside': (field('bbox', [70, 10, 10, 5], only=0), 5),
}


@pytest.mark.parametrize('name', CHANGES)
def test_a_mended_file_passes_the_checks_and_the_rest_stays(root, name):
    change, left = CHANGES[name]
    path = root / 'train.json'
    original = json.loads(path.read_text())
    data = copy.deepcopy(original)
    change(data)
    path.write_text(json.dumps(data))
    before = path.read_bytes()
    assert check_coco(path, root / 'train').problems
    found = mend_coco(path, root / 'new' / 'train.json', root / 'train')
    report = check_coco(found.path, root / 'train')
    assert [p for p in report.problems if p.kind != 'images_without_annotations'] == []
    assert report.instances == left
    assert path.read_bytes() == before
    assert found.changes
    # Every changed entry is counted, and three are shown.
    assert all(str(len(entries)) in line for entries, line in
               zip(found.changes.values(), found.table()))  # fmt: skip
    kept = json.loads((root / 'new' / 'train.json').read_text())['annotations'][-1]
    untouched = original['annotations'][-1]
    assert kept['category_id'] == untouched['category_id']
    if name not in ('corners', 'polygon of points'):
        assert kept['bbox'] == untouched['bbox']
        assert kept['segmentation'] == untouched['segmentation']


def test_a_sound_file_stays_as_it_is(root):
    found = mend_coco(root / 'train.json', root / 'new.json', root / 'train')
    assert found.path == str(root / 'train.json')
    assert not found.changes
    assert not (root / 'new.json').exists()


def test_without_masks_a_broken_mask_costs_no_object(root):
    data = json.loads((root / 'train.json').read_text())
    field('segmentation', [['x']])(data)
    (root / 'train.json').write_text(json.dumps(data))
    found = mend_coco(root / 'train.json', root / 'new.json', root / 'train', masks=False)
    report = check_coco(found.path, root / 'train', masks=False)
    assert report.problems == []
    assert report.instances == 6


def test_a_byte_order_mark_is_removed(root):
    path = root / 'train.json'
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    found = mend_coco(path, root / 'new.json', root / 'train')
    assert json.loads((root / 'new.json').read_text(encoding='utf-8'))['images']
    assert list(found.changes) == ['byte order mark removed']


def test_the_folder_is_found_where_no_image_has_a_size(root):
    # Bug: entries without a size were left out of the search, so that no size was mended.
    data = json.loads((root / 'train.json').read_text())
    drop('width', 'images')(data)
    (root / 'train.json').write_text(json.dumps(data))
    found = mend_coco(root / 'train.json', root / 'new.json')
    assert found.img_dir == str(root / 'train')
    images = json.loads((root / 'new.json').read_text())['images']
    assert [image['width'] for image in images] == [64] * 3


def test_an_image_that_cannot_be_decoded_stays_and_no_fix_is_promised(root):
    # Bug: the check and the docstring said that such images are left out.
    (root / 'train' / '1.png').write_bytes(b'no image')
    report = check_coco(root / 'train.json', root / 'train')
    assert [(p.kind, p.mended) for p in report.problems] == [('bad_images', False)]
    assert not mend_coco(root / 'train.json', root / 'new.json', root / 'train').changes
