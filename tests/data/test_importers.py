"""Data sets in others' formats become the COCO data set that they were written from."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from mmws.config import read_config
from mmws.data.errors import DataError
from mmws.data.image_files import files_in
from mmws.data.importers import CocoBuilder, Shape, import_cvat, import_labelme, import_yolo
from mmws.data.new_config import new_config
from mmws.data.new_config.sources import Options, find_source
from mmws.data.new_config.written import Written
from tests.helpers.formats import as_cvat, as_labelme, as_voc, as_yolo, objects_of

pytest.importorskip('sklearn')

WRITERS = {'yolo': as_yolo, 'labelme': as_labelme, 'cvat': as_cvat, 'voc': as_voc}


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """Return a COCO data set of some digits, and the folder of its images."""
    from mmws.data.digits import generate_digits

    root = generate_digits(
        tmp_path_factory.mktemp('digits') / 'd', num_train=10, num_val=1, image_size=(120, 96),
        digit_size=(28, 44),
    )  # fmt: skip
    return json.loads((root / 'annotations/instances_train.json').read_text()), root / 'train'


def compare(written, data, images, tmp_path, with_masks):
    """Assert that the files of a config hold the objects of a data set, each once."""
    (tmp_path / 'reference.json').write_text(json.dumps(data))
    expected = objects_of(tmp_path / 'reference.json')
    found = objects_of(written.train.path, written.val.path)
    assert found.keys() == expected.keys()
    for name, objects in expected.items():
        assert len(found[name]) == len(objects)
        for (label, box, mask), (other_label, other_box, other_mask) in zip(objects, found[name]):
            assert label == other_label
            np.testing.assert_allclose(other_box, box, atol=1.001)  # 1, rounded
            if with_masks:
                overlap = mask_utils.iou([mask], [other_mask], [0])[0, 0]
                # A pixel's edge weighs more in a small object.
                assert overlap >= 0.98 or mask_utils.area(mask) < 100


@pytest.mark.slow
@pytest.mark.parametrize('name', WRITERS)
def test_every_format_gives_the_same_objects(digits, tmp_path, name):
    # Bugs: boxes off by a pixel, x and y swapped, objects of several parts torn apart.
    data, images = digits
    root = WRITERS[name](data, images, tmp_path / name)
    written = new_config(data=root, out=tmp_path / 'mine.py', start='none')
    compare(written, data, images, tmp_path, with_masks=name != 'voc')
    assert (written.train.images, written.val.images) == (8, 2)
    cfg = read_config(tmp_path / 'mine.py')
    assert ('mask_head' in cfg.model.roi_head) == (name != 'voc')


@pytest.mark.parametrize('name', WRITERS)
def test_real_data_in_every_format(tmp_path, name):
    root = os.environ.get('MMWS_TEST_NUCLEI')
    if not root:
        pytest.skip('MMWS_TEST_NUCLEI does not name the nuclei data set')
    data = json.loads((Path(root) / 'annotations/instances_val.json').read_text())
    folder = WRITERS[name](data, Path(root) / 'val', tmp_path / name)
    written = new_config(data=folder, out=tmp_path / 'mine.py', start='none')
    compare(written, data, Path(root) / 'val', tmp_path, with_masks=name != 'voc')


def test_yolo_with_splits_boxes_and_classes_by_number(digits, tmp_path):
    data, images = digits
    root = as_yolo(data, images, tmp_path / 'y')
    (root / 'data.yaml').unlink()
    files = sorted((root / 'images').iterdir())
    for split, chosen in (('train', files[:6]), ('val', files[6:])):
        for folder in ('images', 'labels'):
            (root / folder / split).mkdir()
        for file in chosen:
            file.rename(root / 'images' / split / file.name)
            label = root / 'labels' / f'{file.stem}.txt'
            label.rename(root / 'labels' / split / label.name)
    (root / 'labels/train' / f'{files[0].stem}.txt').write_text('12 0.5 0.5 0.25 0.5\n')
    found = import_yolo(root)
    assert [len(found.splits[s]['images']) for s in ('train', 'val')] == [6, 4]
    assert [c['name'] for c in found.splits['val']['categories']] == [str(i) for i in range(13)]
    first = found.splits['train']['annotations'][0]
    assert first['bbox'] == [45.0, 24.0, 30.0, 48.0]  # of 120 x 96
    assert 'segmentation' not in first


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('x 0.1 0.2 0.3 0.4', 'line 1 is not a class'),
        ('inf 0.1 0.2 0.3 0.4', 'line 1 is not a class'),
        ('99 0.1 0.2 0.3 0.4', 'class 99, but only'),
    ],
)
def test_a_broken_label_file_is_named(digits, tmp_path, line, message):
    root = as_yolo(*digits, tmp_path / 'y')
    next(iter(sorted((root / 'labels').iterdir()))).write_text(line)
    with pytest.raises(DataError, match=message):
        import_yolo(root)


def test_shapes_of_labelme_and_cvat(tmp_path):
    # Rectangles given from any corner, circles, masks, groups; points are left out with a word.
    from PIL import Image

    Image.new('RGB', (40, 30)).save(tmp_path / 'a.png')
    shapes = [
        {'label': 'box', 'points': [[30, 20], [10, 5]], 'shape_type': 'rectangle'},
        {'label': 'disk', 'points': [[20, 15], [20, 25]], 'shape_type': 'circle'},
        {'label': 'spot', 'points': [[1, 1]], 'shape_type': 'point'},
        {'label': 'pair', 'points': [[0, 0], [4, 0], [4, 4]], 'group_id': 7},
        {'label': 'pair', 'points': [[10, 0], [14, 0], [14, 4]], 'group_id': 7},
        {'label': 'pair', 'points': [[1, 2]], 'shape_type': 'polygon'},
    ]
    content = {'shapes': shapes, 'imagePath': '..\\elsewhere\\a.png'}
    (tmp_path / 'a.json').write_text(json.dumps(content))
    found = import_labelme(tmp_path)
    objects = found.splits['all']['annotations']
    names = [c['name'] for c in found.splits['all']['categories']]
    assert [names[o['category_id'] - 1] for o in objects] == ['box', 'disk', 'pair']
    assert objects[0]['bbox'] == [10, 5, 20, 15]
    assert objects[1]['area'] == pytest.approx(np.pi * 100, rel=0.03)
    assert len(objects[2]['segmentation']) == 2
    assert len(found.warnings) == 2

    (tmp_path / 'annotations.xml').write_text(
        '<annotations><image name="a.png" width="40" height="30">'
        '<box label="box" xtl="10" ytl="5" xbr="30" ybr="20"/>'
        '<box label="turned" xtl="10" ytl="5" xbr="30" ybr="15" rotation="90"/>'
        '<mask label="m" left="3" top="2" width="4" height="2" rle="1,2,3,2"/>'
        '<points label="p" points="1,1"/></image></annotations>'
    )
    found = import_cvat(tmp_path)
    objects = found.splits['all']['annotations']
    assert objects[0]['bbox'] == [10, 5, 20, 15]
    np.testing.assert_allclose(objects[1]['bbox'], [15, 0, 10, 20], atol=1e-6)
    mask = mask_utils.decode(objects[2]['segmentation'])
    # 1 pixel of background, 2 of the object, 3 of background, 2 of the object, row by row.
    assert mask[2, 3:7].tolist() == [0, 1, 1, 0]
    assert mask[3, 3:7].tolist() == [0, 0, 1, 1]
    assert mask.sum() == 4
    assert len(found.warnings) == 1


def test_several_coco_files_are_joined_by_class_names(digits, tmp_path):
    # Bug: each file numbers images and categories from 1, so objects land in others' images.
    data, images = digits
    ids = [image['id'] for image in data['images']]
    random.Random(0).shuffle(ids)
    for part, chosen in (('a', set(ids[:5])), ('b', set(ids[5:]))):
        (tmp_path / 'data' / part).mkdir(parents=True)
        entries = [i for i in data['images'] if i['id'] in chosen]
        new_ids = {image['id']: n for n, image in enumerate(entries, start=1)}
        categories = data['categories'] if part == 'a' else data['categories'][::-1]
        numbers = {c['id']: n for n, c in enumerate(categories, start=1)}
        content = {
            'images': [{**i, 'id': new_ids[i['id']]} for i in entries],
            'categories': [{'id': numbers[c['id']], 'name': c['name']} for c in categories],
            'annotations': [
                {**a, 'image_id': new_ids[a['image_id']], 'category_id': numbers[a['category_id']]}
                for a in data['annotations']
                if a['image_id'] in chosen
            ],
        }
        (tmp_path / 'data' / part / 'coco.json').write_text(json.dumps(content))
        for image in entries:
            (tmp_path / 'data' / part / image['file_name']).write_bytes(
                (images / image['file_name']).read_bytes()
            )
    written = new_config(data=tmp_path / 'data', out=tmp_path / 'mine.py', start='none')
    compare(written, data, images, tmp_path, with_masks=True)


def test_nothing_recognized_is_said(tmp_path):
    (tmp_path / 'a.json').write_text('{"a": 1}')
    with pytest.raises(FileNotFoundError, match='holds no data set that is recognized'):
        new_config(data=tmp_path, out=tmp_path / 'c.py')


def test_a_class_without_a_name_has_a_plausible_number(digits, tmp_path):
    # Bug: a list of as many names is made as the number says, until the memory is full.
    root = as_yolo(*digits, tmp_path / 'y')
    (root / 'data.yaml').unlink()
    next(iter(sorted((root / 'labels').iterdir()))).write_text('1000000000 0.1 0.2 0.3 0.4')
    with pytest.raises(DataError, match=r'\.txt: line 1 has class 1000000000'):
        import_yolo(root)


@pytest.mark.parametrize(
    ('old', 'new', 'named'),
    [
        ('width="40"', 'width=""', "a.png: width is ''"),
        ('width="40"', '', 'a.png: width is None'),
        ('height="30"', 'height="1e9"', 'a.png: width and height are 40 x 1000000000'),
    ],
)
def test_an_image_of_cvat_without_a_size_is_named(tmp_path, old, new, named):
    # Bugs: "could not convert string to float", of no file; masks are drawn on gigabytes.
    from PIL import Image

    Image.new('RGB', (40, 30)).save(tmp_path / 'a.png')
    text = '<annotations><image name="a.png" width="40" height="30"></image></annotations>'
    (tmp_path / 'annotations.xml').write_text(text.replace(old, new))
    with pytest.raises(DataError, match=rf'annotations\.xml: image {named}'):
        import_cvat(tmp_path)


@pytest.mark.parametrize('far', [1e9, 1e300, float('inf'), float('nan')])
@pytest.mark.parametrize('box', [False, True])
def test_an_object_that_reaches_far_out_is_left_out(far, box):
    # Bug: pycocotools crashes the process with a segmentation fault.
    builder = CocoBuilder(['a'])
    image = builder.add_image('a.png', (40, 30))
    shape = Shape(box=(1, 2, far, 4)) if box else Shape(polygon=[1, 1, far, 1, 9, 9])
    builder.add_object(image, 'a', [shape])
    builder.add_object(image, 'a', [shape, Shape(mask=np.ones((30, 40), bool))])
    builder.add_object(image, 'a', [Shape(polygon=[1, 1, 8, 1, 8, 8])])
    assert [entry['id'] for entry in builder.data()['annotations']] == [1]
    (warning,) = builder.warnings()
    assert warning.startswith('2 objects left out, which reach further than')


def test_a_folder_that_the_yaml_names_and_is_missing_is_told_with_its_key(digits, tmp_path):
    # Bug: the message names neither the YAML file nor the entry to correct.
    data, images = digits
    root = as_yolo(data, images, tmp_path / 'yolo')
    about = root / 'data.yaml'
    about.write_text("{names: {0: a}, path: '.', train: nowhere}")
    with pytest.raises(FileNotFoundError, match=rf"'train' of {about} names .*nowhere, which"):
        import_yolo(root)


def picture(path, size=(40, 30)):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size).save(path)


@pytest.mark.parametrize(('shape', 'points'), [([4, 3], 12), ([17, 2], 34), ([17, 3], 51)])
def test_labels_with_key_points_are_boxes(tmp_path, shape, points):
    # Bug: boxes with their key points became polygons; of an odd number all were left out.
    picture(tmp_path / 'images' / 'a.jpg')
    (tmp_path / 'labels').mkdir()
    numbers = ' '.join(['0.5'] * points)
    (tmp_path / 'labels' / 'a.txt').write_text(f'0 0.5 0.5 0.25 0.2 {numbers}')
    (tmp_path / 'data.yaml').write_text(f'train: images\nnames: [person]\nkpt_shape: {shape}\n')
    found = import_yolo(tmp_path)
    (annotation,) = found.splits['train']['annotations']
    assert annotation['bbox'] == [15, 12, 10, 6]
    assert 'segmentation' not in annotation
    assert any('key points are left out' in warning for warning in found.warnings)


def test_yolo_names_by_numbers_that_are_texts(tmp_path):
    # Bug: the classes were called "0" and "1".
    picture(tmp_path / 'images' / 'a.jpg')
    (tmp_path / 'labels').mkdir()
    (tmp_path / 'labels' / 'a.txt').write_text('1 0.5 0.5 0.25 0.2')
    (tmp_path / 'data.yaml').write_text("train: images\nnames: {'0': cat, '1': dog}\n")
    categories = import_yolo(tmp_path).splits['train']['categories']
    assert [category['name'] for category in categories] == ['cat', 'dog']


def test_folders_that_are_links_are_entered_once(tmp_path):
    # Bug: images in a linked folder were not found.
    picture(tmp_path / 'elsewhere' / 'a.jpg')
    (tmp_path / 'y' / 'images').mkdir(parents=True)
    (tmp_path / 'y' / 'images' / 'more').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'elsewhere' / 'up').symlink_to(tmp_path / 'elsewhere')
    found = list(files_in(tmp_path / 'y' / 'images', '.jpg'))
    assert found == [tmp_path / 'y' / 'images' / 'more' / 'a.jpg']
    (tmp_path / 'y' / 'data.yaml').write_text('train: images\nnames: [a]\n')
    assert len(import_yolo(tmp_path / 'y').splits['train']['images']) == 1


def coco_file(path, names, categories=('cat', 'dog'), **changes):
    images = [
        {'id': i, 'file_name': name, 'width': 40, 'height': 30} for i, name in enumerate(names)
    ]
    annotations = [
        {'id': i, 'image_id': i, 'category_id': i % len(categories), 'bbox': [4, 4, 20, 10],
         'area': 200, 'iscrowd': 0, 'segmentation': [[4, 4, 24, 4, 24, 14, 4, 14]]}
        for i in range(len(names))
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        'images': images, 'annotations': annotations,
        'categories': [{'id': i, 'name': name} for i, name in enumerate(categories)], **changes,
    }  # fmt: skip
    path.write_text(json.dumps(data))


def split_of(source):
    """Return the names of the images of train and val, and their classes."""
    files = [json.loads(Path(path).read_text()) for path in (source.train, source.val)]
    names = [{Path(image['file_name']).name for image in data['images']} for data in files]
    return *names, [[c['name'] for c in data['categories']] for data in files]


def test_cocos_own_folder_keeps_its_split(tmp_path):
    # Bug: the files of key points made two of each split, and all images were split anew.
    for split in ('train2017', 'val2017'):
        names = [f'{split}_{i}.jpg' for i in range(3)]
        for name in names:
            picture(tmp_path / split / name)
        for kind in ('instances', 'person_keypoints'):
            coco_file(tmp_path / 'annotations' / f'{kind}_{split}.json', names)
    source = find_source(tmp_path, Options(Written(tmp_path / 'out')))
    assert [Path(path).name for path in (source.train, source.val)] == [
        'instances_train2017.json', 'instances_val2017.json',
    ]  # fmt: skip


def test_two_training_files_are_joined_without_the_validation_file(tmp_path):
    # Bug: all three were joined and split anew, so that validation images were trained on.
    classes = {'train_a': ('cat', 'dog'), 'train_b': ('dog', 'cat'), 'val': ('dog', 'bird')}
    for name, categories in classes.items():
        names = [f'{name}_{i}.jpg' for i in range(2)]
        for image in names:
            picture(tmp_path / 'images' / image)
        coco_file(tmp_path / f'{name}.json', names, categories)
    train, val, categories = split_of(find_source(tmp_path, Options(Written(tmp_path / 'out'))))
    assert train == {'train_a_0.jpg', 'train_a_1.jpg', 'train_b_0.jpg', 'train_b_1.jpg'}
    assert val == {'val_0.jpg', 'val_1.jpg'}
    assert categories[0] == categories[1]


def test_files_of_an_earlier_run_are_not_the_data(tmp_path):
    # Bug: the second run took the old split for the data set, and lost what was added since.
    root = tmp_path / 'd'
    names = [f'{i}.jpg' for i in range(5)]
    for name in names:
        picture(root / name)
    coco_file(root / 'cells.json', names[:4])
    find_source(root, Options(Written(root / 'mine_data')))
    coco_file(root / 'cells.json', names)
    found = find_source(root, Options(Written(root / 'mine_data')))
    train, val, _ = split_of(found)
    assert train | val == set(names)
    assert 'cells.json' in found.notes[0]


def test_a_folder_of_labelme_is_known_after_an_earlier_run(tmp_path):
    # Bugs: the old split was taken for the data set; the first JSON file alone was looked at.
    root = tmp_path / 'd'
    for name in ('b', 'c'):
        picture(root / f'{name}.jpg')
        labelme_file(root / f'{name}.json')
    (root / 'a.json').write_text('{"other": 1}')
    for _ in range(2):
        source = find_source(root, Options(Written(root / 'mine_data')))
        assert 'recognized LabelMe: 2 images' in source.notes[0]


def labelme_file(path, size=(40, 30)):
    shape = {'label': 'a', 'points': [[1, 1], [9, 1], [9, 9]], 'shape_type': 'polygon'}
    content = {'shapes': [shape], 'imagePath': f'{path.stem}.jpg',
               'imageWidth': size[0], 'imageHeight': size[1]}  # fmt: skip
    path.write_text(json.dumps(content))


def test_labels_of_an_image_of_another_size_are_named(tmp_path):
    # Bug: the objects of a picture that was resized were misplaced without a word.
    picture(tmp_path / 'a.jpg', (20, 15))
    labelme_file(tmp_path / 'a.json')
    with pytest.raises(DataError, match=r'a\.json: is of an image of 40x30 .*a\.jpg has 20x15'):
        import_labelme(tmp_path)


CVAT = """<annotations><meta><task><labels>
<label><name>person</name><type>skeleton</type></label>
<label><name>hand</name><type>points</type><parent>person</parent></label>
</labels></task></meta>{}</annotations>"""


def cvat_tree(root, images):
    """Write a tree of CVAT: (subset, name, folder) of each image, which gets a box."""
    for _, name, folder in images:
        picture(root / folder / name)
    items = (
        f'<image subset="{subset}" name="{name}" width="40" height="30">'
        '<box label="person" xtl="1" ytl="1" xbr="9" ybr="9"/></image>'
        for subset, name, _ in images
    )
    (root / 'annotations.xml').write_text(CVAT.format(''.join(items)))


@pytest.mark.parametrize(
    ('subsets', 'splits'),
    [
        (['Train', 'Validation', 'Test'], {'train': 1, 'val': 1}),
        (['Train', 'Test'], {'all': 1}),
        (['Test'], {'all': 1}),
        (['Train', 'Validation', 'default'], {'train': 1, 'val': 1}),
    ],
)
def test_subsets_of_cvat(tmp_path, subsets, splits):
    # Bugs: a subset of test images threw the split away, and they were trained on; images in
    # folders of their subsets were not found; the parts of skeletons became classes.
    cvat_tree(tmp_path, [(subset, f'{subset}.jpg', f'images/{subset}') for subset in subsets])
    found = import_cvat(tmp_path)
    assert {split: len(data['images']) for split, data in found.splits.items()} == splits
    names = [i['file_name'] for data in found.splits.values() for i in data['images']]
    assert all((found.img_dir / name).is_file() for name in names)
    left_out = len(subsets) - len(names)
    assert [line for line in found.warnings if f'{left_out} images of other subsets' in line] == (
        found.warnings if left_out else []
    )
    categories = [c['name'] for data in found.splits.values() for c in data['categories']]
    assert set(categories) == {'person'}


def test_ids_that_are_texts_are_mended_before_the_split(tmp_path):
    # Bug: all annotations went to train, where most images are not, and val had none.
    names = [f'{i}.jpg' for i in range(6)]
    for name in names:
        picture(tmp_path / 'images' / name)
    coco_file(tmp_path / 'x.json', names)
    data = json.loads((tmp_path / 'x.json').read_text())
    for annotation in data['annotations']:
        annotation['image_id'] = str(annotation['image_id'])
    (tmp_path / 'x.json').write_text(json.dumps(data))
    options = Options(Written(tmp_path / 'out'), val_fraction=0.5, fix=True)
    source = find_source(tmp_path / 'x.json', options)
    for path in (source.train, source.val):
        part = json.loads(Path(path).read_text())
        ids = [image['id'] for image in part['images']]
        assert [annotation['image_id'] for annotation in part['annotations']] == ids
    assert any('image_id written like the id' in note for note in source.notes)
